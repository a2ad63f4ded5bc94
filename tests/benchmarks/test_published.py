"""Published figures are those of benchmarks/results: pages and README are made from them, nothing by hand."""

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGES = ROOT / "benchmarks" / "results", ROOT / "docs" / "results"
ELSEWHERE = {"flat", "fused", "labels", "many_tables", "newcomer", "waiting_threads"}
"""Pages that tests of their own compare."""
IS_OF_RUNS = {"title", "command", "date", "runs"}
"""What common.save_runs writes."""
MODULES = (
    "common",
    "demo",
    "newcomer",
    "evidence",
    "small_sets",
    "metrics",
    "recipes",
    "gallery",
    "clips",
    "interrupted",
    "overhead",
    "soak",
    "two_nodes",
    "labels_page",
    "labels",
    "pairs",
    "refine",
    "local",
    "sounding",
    "mixtures",
    "segments",
    "boxes",
    "contrast",
    "pictures",
    "doubles",
    "killed",
    "long_recordings",
    "scale",
    "sound_alone",
    "transport",
    "vectors",
    "encoded",
    "final_labels",
    "head_choice",
    "objectives",
    "degradation",
    "gpu_page",
    "gpu",
    "shared_loaders",
    "suggest_k",
    "plain_loop",
    "many_tables",
    "score_tables",
    "plain_scaling",
)


def page_of(modules: dict[str, ModuleType], name: str) -> str:
    """The page that a script writes from its results."""
    if name == "refine":
        return str(modules["refine"].page())
    if name == "gpu":
        gpu = modules["gpu"]
        stored = gpu.stored(RESULTS / "gpu.json")
        return str(modules["gpu_page"].page(stored, gpu.CASES, gpu.COMPILED_CASES))
    result = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    if name == "objectives":
        return str(modules["objectives"].page(result["runs"], result["machine"]))
    if name in ("final_labels", "head_choice"):
        return str(modules[name].page(result["runs"], "test"))
    if name.startswith("degradation_"):
        return str(modules["degradation"].page(result))
    return str(modules[name].page(result["runs"] if result.keys() >= IS_OF_RUNS else result))


@pytest.mark.parametrize("name", sorted({path.stem for path in PAGES.glob("*.md")} - ELSEWHERE))
def test_the_page_shows_the_results(benchmarks: dict[str, ModuleType], name: str) -> None:
    assert (PAGES / f"{name}.md").read_text(encoding="utf-8") == page_of(benchmarks, name)


def test_priors_point_at_what_they_stand_for(benchmarks: dict[str, ModuleType]) -> None:
    """A square that moves over a still background, left of the middle; a sound that is loud in one place."""
    evidence = benchmarks["evidence"]
    video = torch.zeros(1, 3, 4, 24, 24)
    for frame in range(4):
        video[:, :, frame, 4:9, 5 * frame : 5 * frame + 5] = 1
    truth = (video[:, 0] > 0).numpy()
    audio = torch.zeros(1, 1, 8, 10)
    audio[0, 0, 3, 6] = 1
    heard = (audio[:, 0] > 0).numpy()
    inputs = {"video": video, "audio": audio}
    hits = {
        name: float(
            evidence._place(prior(inputs), inputs[modality].shape[2:], {"video": truth, "audio": heard}[modality])[0, 0]
        )
        for name, (modality, prior) in evidence.PRIORS.items()
    }
    # Of the first and last frame one neighbour is there, and where the square was, or will be, has changed as much.
    assert 0.5 < hits.pop("no model: frame difference") < 1
    assert hits == {
        "no model: centre": 0,
        "no model: difference from the median frame": 1,
        "no model: colour contrast": 1,
        "no model: loudest": 1,
    }


def test_the_readme_shows_the_results(benchmarks: dict[str, ModuleType]) -> None:
    if not (ROOT / "benchmarks" / "results" / "demo.json").exists():
        pytest.skip("not measured yet: python benchmarks/demo.py")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    common, demo = benchmarks["common"], benchmarks["demo"]
    assert readme == common.fill(readme, "demo", demo.readme_numbers(common.load_runs("demo")))


def test_the_readme_says_how_long_a_small_set_takes(benchmarks: dict[str, ModuleType]) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    common, small_sets = benchmarks["common"], benchmarks["small_sets"]
    assert readme == common.fill(readme, "small", small_sets.readme_numbers(common.load_runs("small_sets")))


def test_the_readme_says_what_a_newcomer_waits_for(benchmarks: dict[str, ModuleType]) -> None:
    newcomer = benchmarks["newcomer"]
    result = json.loads((ROOT / "benchmarks" / "results" / "newcomer.json").read_text(encoding="utf-8"))
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme == benchmarks["common"].fill(readme, "newcomer", newcomer.readme_numbers(result))
    assert (ROOT / "docs" / "results" / "newcomer.md").read_text(encoding="utf-8") == newcomer.page(result)


def test_times_of_a_newcomer_are_added_up(benchmarks: dict[str, ModuleType]) -> None:
    newcomer = benchmarks["newcomer"]
    sizes = {"packages": 3, "installed": 5_000_000_000, "largest": {"torch": 1_200_000_000}, "download": 2_000_000_000}
    timed_on = {"machine": {"processor": "P", "cores": 2, "memory_gb": 24.7}, "git_commit": "0123456789abcdef"}
    result = {"sizes": sizes, "steps": dict.fromkeys((*newcomer.STEPS, "compile"), 30.0), "timed_on": timed_on}
    page, readme = newcomer.page(result), newcomer.readme_numbers(result)
    assert "| together | 2 min 00 s |" in page and "once on a machine: 30 s." in page and "commit 0123456789ab." in page
    assert "2.0 GB to download, 5.0 GB on the disk" in readme and "Then it takes 2 min 00 s: 30 s to generate" in readme
    assert "Not measured yet." in newcomer.page({**result, "steps": None})


def test_what_is_required_leaves_the_test_packages_out(benchmarks: dict[str, ModuleType]) -> None:
    packages = benchmarks["newcomer"].required()
    assert {"torch", "numpy", "selavi"} <= packages.keys()
    assert not {"pytest", "pot", "hypothesis"} & packages.keys()


def test_numbers_go_between_their_marks(benchmarks: dict[str, ModuleType]) -> None:
    fill = benchmarks["common"].fill
    text = "a\n<!-- numbers: x -->\nold\n<!-- end: x -->\nb\n<!-- numbers: y -->\nkept\n<!-- end: y -->\n"
    filled = fill(text, "x", "new\n")
    assert filled == text.replace("old", "new")
    assert fill(filled, "x", "new") == filled
    with pytest.raises(ValueError, match="no place for numbers"):
        fill(text, "z", "new")


def test_a_job_with_other_settings_is_another_run(benchmarks: dict[str, ModuleType]) -> None:
    jobs = benchmarks["demo"].jobs([0, 1], ablation=True, trial=[])
    folders = [job.run_dir() for job in jobs]
    assert len(set(folders)) == len(jobs) == 7  # two seeds of two rows, one of the other three
    assert [job.run_dir() for job in benchmarks["demo"].jobs([0, 1], ablation=True, trial=[])] == folders
    changed = benchmarks["demo"].jobs([0, 1], ablation=True, trial=["trainer.max_epochs=1"])
    assert not set(folders) & {job.run_dir() for job in changed}


def test_every_job_is_a_valid_configuration(benchmarks: dict[str, ModuleType]) -> None:
    from selavi.config import load_config

    small = benchmarks["small_sets"]
    jobs = benchmarks["demo"].jobs([0], ablation=True, trial=[])
    for small_set in small.SETS.values():
        jobs += small.jobs(small_set, list(small.MODALITIES), [0], [])
    for job in jobs:
        found = load_config(ROOT / job.config, [*job.overrides, f"seed={job.seed}"]).modalities
        assert ("video" in job.row, "sound" in job.row) == ("video" in found, "audio" in found)


def test_all_recipes_have_one_budget_and_a_folder_each(benchmarks: dict[str, ModuleType]) -> None:
    from selavi.config import load_config

    small, recipes = benchmarks["small_sets"], benchmarks["recipes"]
    for small_set in (small.SETS[name] for name in small.PUBLISHED):
        jobs = recipes.jobs(small_set, list(recipes.RECIPES), [0, 1], [])
        assert len({job.run_dir() for job in jobs}) == len(jobs) == 2 * len(recipes.RECIPES)
        configs = [load_config(ROOT / job.config, list(job.overrides)) for job in jobs]
        assert len({(config.trainer.max_epochs, config.labelling.num_labellings) for config in configs}) == 1


def test_a_table_of_recipes_that_is_still_filling_can_be_shown(benchmarks: dict[str, ModuleType]) -> None:
    """Figures made up for the test: XDC has one seed, SeLaVi two, and of concatenation there is none."""
    recipes = benchmarks["recipes"]

    def run(recipe: str, seed: int, nmi: float) -> dict[str, object]:
        figures = {"nmi": nmi, "ari": nmi / 2, "accuracy": nmi}
        kmeans = {
            f"kmeans on {kind}": {"nmi": 0.5} for kind in ("video", "audio", "video+audio", "untrained video+audio")
        }
        of_split = {"chosen": figures, "kmeans": kmeans, "modalities": {"video": 0.11, "audio": 0.22}}
        environment = {
            "machine": {"processor": "a processor", "cores": 2, "memory_gb": 1},
            "python": "3", "versions": {"torch": "2", "av": "1"}, "device": "cpu", "git_commit": "abc",
        }  # fmt: skip
        splits = {split: of_split for split in ("train", "test")}
        row = f"AV-objects, {recipe}"
        told = {"row": row, "seed": seed, "splits": splits, "train_seconds": 60, "commands": ["train", "measure"]}
        return {**told, "environment": environment}

    page = recipes.page([run("selavi", 0, 0.8), run("xdc", 0, 0.6), run("selavi", 1, 0.9)])
    assert "| SeLaVi | 2 | 0.800 0.900 (mean 0.850) |" in page
    assert "| XDC | 1 | 0.600 |" in page
    assert "| concatenation (SeLa on both features) | 0 |" in page
    assert "| XDC | 1 | 0.110 | 0.220 | 0.110 | 0.220 |" in page
    assert "Joint labels beat swapped ones (XDC): train NMI higher in 1 of 1 seeds, by +0.200 on average" in page
    assert "K-means on the features of the same encoders: train NMI higher in 2 of 2 seeds, by +0.350" in page
    assert "AV-digits" not in page.split("## AV-objects")[1]


def test_mixtures_show_four_scenes_and_the_quarter_is_that_of_the_one_that_sounds(
    benchmarks: dict[str, ModuleType],
) -> None:
    mixtures = benchmarks["mixtures"]
    classes = ["ball_thud", "pendulum_bell", "clapper_tick", "fan_hum", "rain_rush", "ball_bell", "fan_rush"]
    others = mixtures.partners(classes, [str(number) for number in range(len(classes))])
    for row, three in enumerate(others.tolist()):
        parts = [classes[one].split("_") for one in (row, *three)]
        assert len({look for look, _ in parts}) == len({sound for _, sound in parts}) == 4
    frames = torch.arange(7)[:, None, None, None, None].expand(7, 2, 8, 8, 3).to(torch.uint8)
    for row, mixture in enumerate(mixtures.tile(frames, others)):
        shown = [mixture[:, top : top + 4, left : left + 4].unique().tolist() for top in (0, 4) for left in (0, 4)]
        assert shown[row % 4] == [row]
        assert sorted(one for quarter in shown for one in quarter) == sorted([row, *others[row].tolist()])
    values = np.zeros((6, 6))
    values[4, 0], values[:3, 3:] = 2, 1
    assert mixtures.picks(values) == (2, 1)


def test_the_loudest_motion_goes_with_the_sound(benchmarks: dict[str, ModuleType]) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 30, (6, 8, 8, 3))
    frames[3, 4:, :4] += 200  # one flash in the third quarter, when it is loud
    loud = np.repeat([10, 10, 200, 200, 10, 10], 50) * rng.choice([-1, 1], 300)
    assert benchmarks["mixtures"].loudest_motion(frames.astype(np.uint8), loud.astype(np.int16)) == 2


def test_the_interval_is_wilsons(benchmarks: dict[str, ModuleType]) -> None:
    """Bounds p at which the share lies 1.96 standard errors of p away (Wilson 1927)."""
    for bound in benchmarks["mixtures"].wilson(0.3, 240):
        assert abs(0.3 - bound) / np.sqrt(bound * (1 - bound) / 240) == pytest.approx(1.959964)
