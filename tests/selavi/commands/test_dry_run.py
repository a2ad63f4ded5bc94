"""`train --dry-run`: what a training would need, found out without writing anything."""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from datamodules.doctor import throughput
from datamodules.index.scan import scan
from selavi.atomic import hold
from selavi.commands import dry_run
from selavi.commands.recipes import find_recipe, has_labellings_of_recipe
from selavi.config import load_config
from selavi.runs.folder import RunFolder
from tools import train

Dry = Callable[..., tuple[int, str]]


def snapshot(*folders: Path) -> dict[Path, tuple[int, int]]:
    """Every file and folder below some folders, with size and time of change."""
    paths = [path for folder in folders if folder.exists() for path in (folder, *folder.rglob("*"))]
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in paths}


@pytest.fixture
def dry(
    tiny_yaml: Path,
    demo_set: Path,
    cache_dir: Path,
    finished_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> Iterator[Dry]:
    """`dry("section.key=value", ...)` -> exit code and what was said; afterwards nothing may have been written."""
    monkeypatch.setattr(dry_run, "_READ_S", 0.2)
    monkeypatch.setattr(throughput._few, "__defaults__", (60.0, 3))  # decoded into a temporary folder
    monkeypatch.chdir(tmp_path)
    places = (tmp_path, demo_set, cache_dir, finished_run)

    def call(*words: object) -> tuple[int, str]:
        capfd.readouterr()
        before = snapshot(*places)
        code = train.main(["--config", str(tiny_yaml), "--dry-run", "run_dir=run", *map(str, words)])
        assert snapshot(*places) == before
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        return code, captured.out + captured.err

    yield call
    assert not list(Path(tempfile.gettempdir()).glob("selavi-dry-run-*"))


def test_a_run_is_tried_and_nothing_is_written(dry: Dry, tmp_path: Path, tiny_yaml: Path) -> None:
    settings = (f"data.cache_dir={tmp_path / 'none'}", f"run_dir={tmp_path / 'new'}")
    code, text = dry(*settings)
    assert code == 0, text
    for line in (
        "training process",
        "label bank",
        "labelling, by head",
        "decoded media",
        "run folder",
        "step of 8 clips",
    ):
        assert line in text
    assert "clips: 32 to train on; 32 of 32 files looked at" in text
    assert re.search(r"epoch of 4 steps .*estimated: \S+ clips/s are read, taking turns with the model", text)
    assert re.search(r"labelling .*32 clips x 2 heads, from 32 x 1", text)
    assert re.search(r"all of it .*estimated: 2 epochs, 4 labellings", text)
    assert "not counted: the scan of the files, checkpoints, evaluation" in text
    assert f"Next: python tools/train.py --config {tiny_yaml} run_dir=run {' '.join(settings)}\n" in text


def test_labellings_that_take_much_of_the_work_are_named_before_the_training(
    dry: Dry, fit: Callable[..., int], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("labelling.num_labellings=60", "trainer.max_epochs=4")
    code, text = dry(*words, "labelling.first=crafted")
    assert code == 0, text
    assert re.search(r"warning: \d\d% of this training goes into labels \(as measured\)", text)
    assert re.search(r"first labels +.+ estimated: 2 passes over the clips for 8 views of each", text)
    settings = ("labelling.method=none", "loss.kind=mutual_information", "heads.num_clusters=2")
    assert "goes into labels" not in dry(*settings)[1]
    assert fit(tmp_path / "other", *words, "trainer.max_epochs=1") == 0
    said = capfd.readouterr().err
    assert said.index("of this training goes into labels (by count") < said.index("labelling 1/")


def test_a_recipe_has_the_labellings_that_it_was_measured_with() -> None:
    demo = find_recipe(Path("demo"))
    fewer = ["trainer.max_epochs=9", "labelling.num_labellings=20"]
    assert has_labellings_of_recipe(load_config(demo, []), demo)
    assert has_labellings_of_recipe(load_config(demo, fewer), demo)
    assert not has_labellings_of_recipe(load_config(demo, ["trainer.max_epochs=9"]), demo)
    assert not has_labellings_of_recipe(load_config(demo, []), Path("mine.yaml"))


def test_columns_are_aligned(dry: Dry) -> None:
    lines = dry("data.cache_gb=0")[1].splitlines()
    first = next(number for number, line in enumerate(lines) if line.strip().startswith("needs"))
    place = lines[first].index("how it is known")
    table = lines[first : first + 9]
    assert all(line[place - 2 : place] == "  " and line[place] != " " for line in table), table


def test_clips_that_a_scan_has_seen_are_all_there_and_a_cache_is_used(dry: Dry, finished_run: Path) -> None:
    """The folder has 48 files of two splits; an earlier run has scanned and decoded them."""
    code, text = dry()
    assert code == 0
    assert "clips: 32 to train on; 48 of 48 files looked at" in text
    assert "decoded media" not in text and "decoding ahead" not in text


def test_media_over_the_budget_are_not_decoded_ahead(dry: Dry) -> None:
    code, text = dry("data.cache_gb=0.001")
    assert code == 0
    assert "decoded media would take " in text and "over data.cache_gb=0.001: each clip is decoded anew" in text


def test_a_sample_stands_for_the_others_and_says_so(dry: Dry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.doctor.throughput._SAMPLED", 16)
    code, text = dry(f"data.cache_dir={tmp_path / 'none'}")
    assert code == 0
    assert "clips: about 32 to train on; 16 of 32 files looked at, the others are taken to be like them" in text


def test_several_devices_follow_from_the_settings(dry: Dry) -> None:
    code, text = dry("trainer.devices=2", "data.cache_gb=0")
    assert code == 0
    assert "epoch of 2 steps" in text and "all of 2 processes here" in text
    assert "measured on one device; 2 take 16 clips a step, taken to be as fast as one" in text


def test_a_loader_process_is_measured(dry: Dry) -> None:
    code, text = dry("data.num_workers=1", "data.cache_gb=0")
    assert code == 0
    assert re.search(r"1 loader process +\d.* measured: [\d.]+ [MG]B a process", text), text


def test_a_run_that_is_stopped_says_where_it_goes_on(
    dry: Dry, tiny_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    assert train.main(["--config", str(tiny_yaml), f"run_dir={folder}"]) == 0
    RunFolder(folder).status.unlink()  # killed before it could say that it was done
    code, text = dry(f"run_dir={folder}", "resume=auto")
    assert code == 0
    assert f"{folder} goes on from step 8, after 4 labellings" in text
    assert re.search(r"what is left +0\.0 s .*estimated: 0 epochs, 0 labellings", text)
    code, text = dry(f"run_dir={folder}", "resume=auto", "optim.lr=0.01")
    assert code == 2 and "the checkpoint was made with other settings (optim.lr: 0.05 then, 0.01 now)" in text


def test_a_finished_run_has_nothing_to_train(dry: Dry, finished_run: Path) -> None:
    code, text = dry(f"run_dir={finished_run}", "resume=auto")
    assert code == 0
    assert f"{finished_run} is finished; nothing to train" in text and "how it is known" not in text


def test_other_clips_than_the_run_began_with_are_refused(
    dry: Dry, demo_set: Path, finished_run: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(finished_run, tmp_path / "run")
    RunFolder(folder).status.unlink()
    media = tmp_path / "media"
    media.mkdir()
    for number, path in enumerate(sorted((demo_set / "train").rglob("*.mp4"))[:20]):
        shutil.copy(path, media / f"{number:02}.mp4")
    scan(media, tmp_path / "cache", 1)
    code, text = dry(f"run_dir={folder}", "resume=auto", f"data.root={media}", f"data.cache_dir={tmp_path / 'cache'}")
    assert code == 2
    assert "the checkpoint labels 32 clips, the data now has 20" in text


def test_a_demo_set_that_is_not_there_is_not_generated(dry: Dry, tmp_path: Path) -> None:
    code, text = dry(f"data.root={tmp_path / 'none'}", "data.demo=true")
    assert code == 0
    assert "clips: 800 to train on, of the demo set, which training generates first" in text
    assert "not counted: generating the demo set, decoding and reading it, " in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--more", "2"], "--dry-run looks at a run with the settings that it is given; --more takes those of RUN"),
        (["--change"], "--dry-run looks at a run with the settings that it is given; --change takes those of RUN"),
        (["heads.num_heds=2"], "unknown setting heads.num_heds; did you mean heads.num_heads?"),
        (["data.root=nowhere"], "data.root=nowhere: no such folder"),
        (["data.list=none.csv"], "none.csv"),
        (["labelling.first=none.csv"], "none.csv"),
        (["heads.num_clusters=33"], "heads.num_clusters=33, but there are only 32 usable training clips"),
        (["optim.batch_size=33"], "a step takes 33 clips, but "),
        (["trainer.devices=8"], "a step takes 64 clips, but "),
        (["trainer.accelerator=abacus"], "the settings of section trainer do not work here"),
        (["resume=must"], "resume=must, but there is no checkpoint"),
        (["data.train_split=validation"], "no file in split 'validation'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_training_refuses_is_refused(dry: Dry, words: list[str], message: str) -> None:
    code, text = dry(*words)
    assert code == 2
    assert message in text and "how it is known" not in text


def test_a_folder_that_is_not_empty_is_refused_and_one_that_is_taken(
    dry: Dry, finished_run: Path, tmp_path: Path
) -> None:
    code, text = dry(f"run_dir={finished_run}")
    assert code == 2 and f"{finished_run} exists and is not empty; say resume=auto" in text
    (tmp_path / "run").mkdir()
    lock = hold(RunFolder(tmp_path / "run").lock)
    assert lock is not None
    with lock:
        code, text = dry("resume=auto")
    assert code == 2 and "is training in run; wait for it" in text


def test_too_many_bad_files_are_refused_with_their_exit_code(dry: Dry, media: Path, tmp_path: Path) -> None:
    settings = [
        f"data.root={media}",
        f"data.cache_dir={tmp_path / 'none'}",
        "heads.num_clusters=2",
        "optim.batch_size=2",
    ]
    code, text = dry(*settings)
    assert code == 3
    assert "3 of 7 files cannot be used" in text
    code, text = dry(*settings, "data.max_bad_fraction=0.5", "data.cache_gb=0")
    assert code == 0 and "3 of the 7 files looked at cannot be used: " in text and "clips: 4 to train on" in text


@pytest.mark.parametrize(
    ("num_bad", "code", "message"),
    [
        (3, 0, "warning: 3 of the 10 files looked at cannot be used"),  # of all, a fifth may be bad
        (7, 3, "7 of the 10 files looked at cannot be used"),
    ],
)
def test_bad_files_of_a_sample_may_be_chance(
    dry: Dry, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_bad: int, code: int, message: str
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for number in range(10):
        shutil.copy(media / ("empty.mp4" if number < num_bad else "plain.mp4"), root / f"{number}.mp4")
    find_sample = throughput.find_sample

    def of_many(*arguments: object, **options: object) -> object:
        return replace(find_sample(*arguments, **options), num_files=1000)

    monkeypatch.setattr(dry_run, "find_sample", of_many)
    settings = [
        f"data.root={root}",
        f"data.cache_dir={tmp_path / 'none'}",
        "heads.num_clusters=2",
        "optim.batch_size=2",
    ]
    found, text = dry(*settings, "data.cache_gb=0")
    assert found == code and message in text, text


@pytest.mark.parametrize(("name", "launcher"), [("WORLD_SIZE", "torchrun"), ("SLURM_STEP_NUM_TASKS", "srun")])
def test_several_processes_are_refused(dry: Dry, monkeypatch: pytest.MonkeyPatch, name: str, launcher: str) -> None:
    monkeypatch.setenv(name, "2")
    code, text = dry()
    assert code == 2
    assert f"{launcher} has started 2 processes, and --dry-run takes one" in text


def test_a_disk_that_is_too_small_is_named_with_need_and_free(
    dry: Dry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "free_disk", lambda _: 1_000_000)
    code, text = dry(f"data.cache_dir={tmp_path / 'none'}")
    assert code == 2
    assert "error: this run does not fit here: decoded media needs " in text
    assert re.search(r"run folder needs [\d.]+ MB of disk, 1\.0 MB are free: say run_dir=\.\.\. on a larger disk", text)
    assert "Next:" not in text and "training process" in text


def test_a_table_that_no_memory_holds_is_named(dry: Dry, monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour of labelling would be lost before the kernel ends the run."""
    monkeypatch.setattr("datamodules.doctor.machine._free_memory", lambda: 10_000_000)
    monkeypatch.setattr(dry_run, "memory_now", lambda: 0)
    code, text = dry()
    assert code == 2
    assert re.search(r"all of it needs \S+ [MG]B of memory, 10 MB are free: set or lower optim\.micro_batch", text)
