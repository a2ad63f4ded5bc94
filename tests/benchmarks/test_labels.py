"""benchmarks/labels.py: what its rows may encode, which of recipes.json it takes, and what its page claims."""

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from selavi.config import load_config

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("common", "small_sets", "recipes", "labels_page", "labels")
SMALL = ROOT / "configs" / "small.yaml"


@pytest.fixture
def labels(benchmarks: dict[str, ModuleType]) -> ModuleType:
    return benchmarks["labels"]


def run(row: str, seed: int, nmi: float, **more: Any) -> dict[str, Any]:
    """Figures made up for the tests."""
    of_split = {
        "chosen": {"nmi": nmi, "n": 100},
        "oracle": {"nmi": nmi + 0.02},
        "mean_of_heads": {"nmi": nmi - 0.01},
        "kmeans": {f"kmeans on {kind}": {"nmi": 0.5} for kind in ("video", "video+audio", "untrained video+audio")},
        "alone": {"video": 0.11, "audio": 0.22},
    }
    environment = {
        "machine": {"processor": "a processor", "cores": 2, "memory_gb": 1},
        "python": "3", "versions": {"torch": "2", "av": "1"}, "device": "cpu", "git_commit": "abc",
    }  # fmt: skip
    splits = {split: dict(of_split) for split in ("train", "test")}
    facts = {"row": row, "seed": seed, "splits": splits, "train_seconds": 60, "commands": ["train", "measure"]}
    return {
        **facts,
        "environment": environment,
        "settings": {},
        "encoded": {"training": 1000, "labelling": 234},
        **more,
    }


def test_the_budget_counts_steps_labellings_and_the_warm_up(labels: ModuleType) -> None:
    plain = ["trainer.max_epochs=2", "labelling.num_labellings=3", "labelling.power=1", "labelling.first=random"]
    config = load_config(SMALL, plain)
    # 100 clips: one whole batch of 64 an epoch; labels at steps 0 and 1 and at the end, from two views each.
    assert labels.encoded_clips(config, 100) == {"training": 2 * 64, "labelling": 3 * 2 * 100 + 64}
    assert labels.encoded_clips(config, 10_000)["labelling"] == 3 * 2 * 10_000 + 20 * 64


def test_labellings_that_share_a_step_are_counted_once(labels: ModuleType) -> None:
    config = load_config(SMALL, ["trainer.max_epochs=2", "labelling.num_labellings=80", "labelling.first=random"])
    assert labels.encoded_clips(config, 64)["labelling"] == 3 * 2 * 64 + 64  # steps 0, 1 and the end


def test_first_labels_that_are_given_save_labellings(labels: ModuleType) -> None:
    plain = ["trainer.max_epochs=4", "labelling.num_labellings=5", "labelling.power=1"]
    random = labels.encoded_clips(load_config(SMALL, [*plain, "labelling.first=random"]), 64)
    crafted = [*plain, "labelling.first=crafted", "labelling.first_share=0.5"]
    # Labels at steps 0 1 2 3 and the end; those at steps 0 and 1 are given, and nothing is warmed up.
    assert random == {"training": 4 * 64, "labelling": 5 * 2 * 64 + 64}
    assert labels.encoded_clips(load_config(SMALL, crafted), 64) == {"training": 4 * 64, "labelling": 3 * 2 * 64}


def test_no_row_has_another_budget(labels: ModuleType, benchmarks: dict[str, ModuleType]) -> None:
    for fast in (False, True):
        for key in benchmarks["small_sets"].SETS:
            budgets, crafted = set(), set()
            for planned in labels.plan([key], list(labels.ROWS), [0], fast):
                config = planned.config()
                is_random = labels.RANDOM in planned.job.overrides
                (budgets if is_random else crafted).add(tuple(labels.encoded_clips(config, 1000).values()))
            assert len(budgets) <= 1
            for spent in crafted:
                assert all(spent[0] == budget[0] and spent[1] <= budget[1] for budget in budgets)


def test_work_goes_seed_by_seed_with_the_default_first(labels: ModuleType) -> None:
    planned = labels.plan(["av_objects", "av_stamps"], ["xdc", "default"], [0, 1], False)
    keys = [one.key for one in planned]
    assert keys[:3] == [("AV-objects, default", 0), ("AV-stamps, default", 0), ("AV-objects, xdc", 0)]
    assert [seed for _, seed in keys] == [0] * 4 + [1] * 4
    assert len({one.job.run_dir() for one in planned}) == 8
    assert not {one.job.run_dir() for one in labels.plan(["av_objects"], ["default"], [0], True)} & {
        one.job.run_dir() for one in planned
    }


def test_settings_without_effect_or_of_places_make_no_other_row(labels: ModuleType) -> None:
    plain = load_config(SMALL, ["modalities=[audio]"])
    same = ["modalities=[audio]", "video.num_frames=3", "data.root=elsewhere", "seed=7", "trainer.accelerator=gpu"]
    assert labels.settings_of(load_config(SMALL, same)) == labels.settings_of(plain)
    other = load_config(SMALL, ["modalities=[audio]", "audio.num_mels=32"])
    assert labels.settings_of(other) != labels.settings_of(plain)


def test_a_row_with_other_settings_is_made_again(labels: ModuleType) -> None:
    planned = labels.plan(["av_objects"], ["default"], [0], False)[0]
    settings = labels.settings_of(planned.config())
    assert labels.is_made(planned, {planned.key: {"settings": settings}})
    assert not labels.is_made(planned, {planned.key: {"settings": settings | {"optim.lr": 0.3}}})
    assert not labels.is_made(planned, {})


def test_rows_of_recipes_are_taken_only_with_the_same_settings(
    labels: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recipe(name: str, seed: int, changes: str) -> dict[str, Any]:
        command = f"python tools/train.py data.root=$AV_OBJECTS heads.num_clusters=9 trainer.max_epochs=40 {changes}"
        commands = [f"{command} labelling.num_labellings=40 seed={seed} run_dir=runs/x", "measure"]
        return run(f"AV-objects, {name}", seed, 0.5, commands=commands)

    stored = [
        recipe("sela-audio", 0, "'modalities=[audio]'"),
        recipe("sela-video", 0, "'modalities=[video]' optim.lr=0.3"),
    ]
    monkeypatch.setattr(labels, "load_runs", lambda name: stored)
    monkeypatch.setattr(labels, "EARLIER", ("trainer.precision=32-true",))
    monkeypatch.setattr(labels, "ROWS", {"sound": "modalities=[audio]", "picture": "modalities=[video]"})
    monkeypatch.setattr(labels.subprocess, "run", lambda *args, **kwargs: Shown(SMALL.read_text(encoding="utf-8")))
    planned = labels.plan(["av_objects", "av_digits"], ["sound", "picture"], [0, 1], False)
    taken = labels.import_recipes(planned)
    assert [(row["row"], row["seed"], row["imported"]) for row in taken] == [
        ("AV-objects, sound", 0, "recipes.json, AV-objects, sela-audio")
    ]
    assert labels.is_made(planned[0], {("AV-objects, sound", 0): json.loads(json.dumps(taken[0]))})


class Shown:
    """What git show gives."""

    returncode = 0

    def __init__(self, stdout: str) -> None:
        self.stdout = stdout


ROWS = {"default": "", "xdc": "labelling.source=cross", "sela-audio": "modalities=[audio]", "sela-video": "x=1"}


def test_a_page_without_rows_says_so(benchmarks: dict[str, ModuleType]) -> None:
    page = benchmarks["labels_page"].page([], [], ROWS, "video.size=32")
    assert "AV-objects: the default recipe has not been measured yet" in page
    assert "- AV-digits, rows (seeds): default (0 1 2), xdc (0 1 2)" in page
    assert "Not run yet." in page
    assert "Nothing can be said before the default has been measured." in page


def test_the_page_compares_seeds_that_both_rows_have(benchmarks: dict[str, ModuleType]) -> None:
    runs = [run("AV-objects, default", 0, 0.8), run("AV-objects, default", 1, 0.9), run("AV-objects, xdc", 1, 0.6)]
    page = benchmarks["labels_page"].page(runs, [], ROWS, "")
    assert "AV-objects, test clips: the default reaches an NMI of 0.800 0.900 (mean 0.850)**, above the floor" in page
    assert "Against XDC (`xdc`): NMI higher in 1 of 1 seeds, by +0.300 on average" in page
    assert "best single modality" not in page
    assert "| xdc | -0.300 (1) |  |  |" in page
    assert "| default | 0.800 0.900 (mean 0.850) | 0.100 | 0.800 0.900 (mean 0.850) | 0.020 | 0.840 |" in page
    assert "1,234" in page
    assert "over 3 runs: the NMI of the head that is chosen without labels is 0.020 below" in page
    assert "- AV-objects, rows (seeds): default (2), xdc (0 2), sela-audio (0 1 2), sela-video (0 1 2)." in page


def test_the_best_single_modality_may_be_one_with_random_first_labels(benchmarks: dict[str, ModuleType]) -> None:
    names = {"default": 0.8, "sela-audio": 0.5, "sela-video": 0.4, "sela-video-random": 0.6}
    runs = [run(f"AV-objects, {name}", 0, nmi) for name, nmi in names.items()]
    page = benchmarks["labels_page"].page(runs, [], ROWS, "")
    assert "best single modality (`sela-video-random`): NMI higher in 1 of 1 seeds, by +0.200 on average" in page
    without = benchmarks["labels_page"].page([*runs[:2], runs[3]], [], ROWS, "")
    assert "best single modality (`sela-video-random`)" in without
    assert "best single modality" not in benchmarks["labels_page"].page(runs[:2], [], ROWS, "")


def test_the_page_names_what_the_default_loses(benchmarks: dict[str, ModuleType]) -> None:
    runs = [
        run("AV-stamps, default", 0, 0.3),
        run("AV-stamps, sela-audio", 0, 0.4),
        run("AV-stamps, sela-video", 0, 0.1),
    ]
    runs[0]["splits"]["train"]["language"] = 0.123
    page = benchmarks["labels_page"].page(runs, [], ROWS, "")
    assert "best single modality (`sela-audio`): NMI higher in 0 of 1 seeds, by -0.100 on average" in page
    assert "AV-stamps: the default is not above `sela-audio` in 1 of 1 seeds." in page
    assert "`sela-video` in" not in page
    assert "K-means on the default's own features is ahead of it, seed 0" in page
    assert "NMI with the language, train" in page and "| 0.123 |" in page


def test_rows_of_the_instrument_stand_apart(benchmarks: dict[str, ModuleType]) -> None:
    page = benchmarks["labels_page"].page([], [run("AV-digits, xdc", 0, 0.77)], ROWS, "video.size=32")
    assert "0.770" not in page.split("## The instrument")[0]
    assert "| xdc | 0.770 | video 0.110, audio 0.220 | 1.0 |" in page


def test_imported_rows_are_named(benchmarks: dict[str, ModuleType]) -> None:
    imported = run("AV-objects, default", 0, 0.8, imported="recipes.json, AV-objects, selavi")
    page = benchmarks["labels_page"].page([imported], [], ROWS, "")
    assert "Not trained again" in page and "- AV-objects, default = selavi there, seeds 0" in page


def test_the_page_shows_the_results(labels: ModuleType, benchmarks: dict[str, ModuleType]) -> None:
    if not (ROOT / "docs" / "results" / "labels.md").exists():
        pytest.skip("not measured yet: python benchmarks/labels.py")
    runs, fast = (list(labels.made_before(name).values()) for name in ("labels", "labels_fast"))
    tried = labels.load_runs("labels_tried")
    text = benchmarks["labels_page"].page(runs, fast, labels.ROWS, labels.FAST, tried)
    assert (ROOT / "docs" / "results" / "labels.md").read_text(encoding="utf-8") == text
