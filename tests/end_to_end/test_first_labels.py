"""The encoders learn labels that were made before the first step, of crafted features or of a table."""

import csv
from pathlib import Path

import pytest
import torch

from selavi.evaluation.compare import RECIPES
from selavi.runs.checkpoint import read_checkpoint
from selavi.runs.folder import RunFolder
from selavi.training.first import teacher
from tests.end_to_end.runs import Train, assert_same_run, bank, start, stop_at
from tools import train

CRAFTED = ["labelling.first=crafted", "labelling.first_share=0.6"]  # of 8 steps; labellings at 0, 2 and 5, and the end


@pytest.fixture(autouse=True, scope="module")
def short_lesson() -> None:
    patch = pytest.MonkeyPatch()
    patch.setattr(teacher, "EPOCHS", 6)
    yield  # type: ignore[misc]
    patch.undo()


@pytest.fixture(scope="module")
def crafted_run(tiny_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crafted") / "run"
    assert train.main(["--config", str(tiny_yaml), f"run_dir={folder}", *CRAFTED]) == 0
    return folder


def saved_bank(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(RunFolder(folder).last_checkpoint)["label_bank"]


def figures(folder: Path) -> list[dict[str, str]]:
    with RunFolder(folder).metrics.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.end_to_end
def test_first_labels_stand_for_the_first_labellings_and_are_told_in_a_line(
    fit: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(tmp_path / "run", *CRAFTED) == 0
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith(("first labels:", "labelling "))]
    assert said[0].startswith("first labels: heads on crafted features (video 315, audio 256 numbers, 8 views) in ")
    assert "; their heads agree to 0." in said[0] and ", nmi 0." in said[0]
    assert said[0].endswith("; they are learned in place of labellings 1 to 2 of 4")
    assert [line.split(":")[0] for line in said[1:]] == ["labelling 3/4", "labelling 4/4"]
    rows = figures(tmp_path / "run")
    assert all(float(rows[0][f"first/{name}"]) >= 0 for name in ("seconds", "agreement", "nmi"))
    assert sum(bool(row["labelling/passes"]) for row in rows) == 2


@pytest.mark.end_to_end
def test_a_run_stopped_while_it_learns_them_goes_on_without_making_them_again(
    fit: Train, crafted_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        stop_at(5, patch)
        assert fit(folder, *CRAFTED) == 75
    assert saved_bank(folder)["num_labellings"] == 2
    capsys.readouterr()
    assert fit(folder, *CRAFTED, "resume=auto") == 0
    assert "first labels" not in capsys.readouterr().err
    assert_same_run(folder, crafted_run)


@pytest.mark.slow
@pytest.mark.end_to_end
def test_loader_processes_change_nothing(fit: Train, crafted_run: Path, tmp_path: Path) -> None:
    assert fit(tmp_path / "run", *CRAFTED, "data.num_workers=2") == 0
    assert_same_run(tmp_path / "run", crafted_run)


@pytest.mark.end_to_end
def test_weights_to_start_from_are_better_than_crafted_features_and_that_is_told(
    fit: Train, finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(tmp_path / "run", *CRAFTED, f"encoders.init={finished_run}", "trainer.max_epochs=1") == 0
    said = capsys.readouterr().err
    assert "first labels: none are given, since the encoders of" in said
    assert "labelling 1/" in said


@pytest.mark.end_to_end
def test_a_table_is_learned_until_labelling_begins(
    fit: Train, demo_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clips = sorted(path.relative_to(demo_set).as_posix() for path in (demo_set / "train").rglob("*.mp4"))
    table = tmp_path / "clusters.csv"
    table.write_text("id,cluster\n" + "".join(f"{name},{number % 3}\n" for number, name in enumerate(clips[1:])))
    with monkeypatch.context() as patch:
        stop_at(5, patch)
        assert fit(tmp_path / "run", f"labelling.first={table}", "labelling.first_share=1") == 75
    assert saved_bank(tmp_path / "run")["labels"][:, 0].tolist() == [-1, *(number % 3 for number in range(31))]
    said = capsys.readouterr().err
    assert "1 of 32 clips have no cluster there" in said
    table.unlink()  # the labels are in the checkpoint
    assert fit(tmp_path / "run", f"labelling.first={table}", "labelling.first_share=1", "resume=auto") == 0
    assert bank(tmp_path / "run").min() >= 0


@pytest.mark.end_to_end
def test_a_table_that_is_not_there_stops_the_run_before_anything(
    fit: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(tmp_path / "run", "labelling.first=craftd", "data.root=nowhere") == 2
    said = capsys.readouterr().err
    assert "labelling.first=craftd: there is no such file; it is crafted, kmeans, random, or a table" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.end_to_end
@pytest.mark.parametrize("recipe", [name for name in RECIPES if name != "iic"])  # which learns no labels
def test_every_recipe_begins_with_them(
    fit: Train, tmp_path: Path, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    short = ("trainer.max_epochs=1", "labelling.num_labellings=3")
    assert fit(tmp_path / "run", *CRAFTED, *RECIPES[recipe], *short) == 0
    assert "first labels: heads on crafted features" in capsys.readouterr().err
    kept = saved_bank(tmp_path / "run")
    by_kmeans = "labelling.method=kmeans" in RECIPES[recipe]
    has_plan = not by_kmeans and "labelling.method=cliques" not in RECIPES[recipe]
    assert kept["labels"].min() >= 0
    assert bool((kept["weights"] == 1).all()) != by_kmeans
    assert bool((kept["potentials"] == 0).all()) != has_plan


@pytest.mark.slow
@pytest.mark.end_to_end
def test_two_processes_begin_with_the_same(repository: Path, tiny_yaml: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    settings = ["trainer.devices=2", "trainer.strategy=ddp", "optim.batch_size=4", "trainer.max_epochs=2", *CRAFTED]
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = start(repository, "--config", tiny_yaml, f"run_dir={folder}", *settings, launcher=launcher)
    try:
        _, error = process.communicate(timeout=280)
    finally:
        process.kill()
    assert process.returncode == 0, error
    assert error.count("first labels: heads on crafted features") == 1  # one of the two speaks
    assert error.count("labelling 3/4") == 1
    assert bank(folder).min() >= 0
