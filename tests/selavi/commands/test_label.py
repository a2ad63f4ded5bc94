"""`selavi label`: one command from a folder to a page, which goes on where it was stopped."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from datamodules.synthetic import generate
from selavi.commands import label, label_plan, label_run
from selavi.commands.label import LabelArguments
from selavi.commands.main import main
from selavi.commands.recipes import RECIPES
from selavi.config import load_config, load_run_config
from selavi.errors import Interrupted
from selavi.training.speed import ModelSpeed
from selavi.wording import called_as

pytestmark = pytest.mark.end_to_end


@pytest.fixture
def words(videos: Path, quick: dict[str, object], tmp_path: Path) -> list[str]:
    """A command line that labels `videos` in seconds."""
    settings = [f"{name}={value}" for name, value in quick.items()]
    cache = f"data.cache_dir={videos.parent / '.selavi-cache'}"
    return ["label", str(videos), "-k", "4", "--out", str(tmp_path / "run"), *settings, cache]


@pytest.fixture
def not_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where anything is measured, trained or written once more."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("it was done once more")

    for name in ("train", "evaluate", "export", "make_plan"):
        monkeypatch.setattr(label_run, name, refuse)


def files_of(run: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}


def test_the_commands_by_hand_train_the_same(words: list[str], tmp_path: Path, labelled_run: Path) -> None:
    """What is printed at the end, given to train, comes to the settings of the run."""
    plan = json.loads((labelled_run / "label.json").read_text())
    with called_as("selavi", "{name}"):
        result = label.label(LabelArguments(plan["folder"], out=labelled_run))
    first = result.by_hand[0].split()
    assert first[:4] == ["selavi", "train", "--config", "small"]
    by_hand = load_config(RECIPES / "small.yaml", [*first[4:], "resume=auto"])
    assert by_hand == load_run_config(labelled_run)


def test_finished_it_says_so_and_writes_nothing(
    labelled_run: Path, videos: Path, not_again: None, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_of(labelled_run)
    assert main(["label", str(videos), "-k", "20", "--out", str(labelled_run)]) == 0
    assert f"{labelled_run} is finished; nothing was left to do" in capsys.readouterr().err
    assert files_of(labelled_run) == before


def test_a_folder_becomes_a_page_also_where_it_was_stopped_between(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    code = 0

    def stop(*_: object) -> None:
        raise Interrupted("stopped by a signal; resume it with resume=auto", code)

    with monkeypatch.context() as patch:
        patch.setattr(label_run, "train", stop)
        for code in (130, 75):  # the keyboard, and other signals
            assert main(words) == code
    said = capsys.readouterr().err
    assert said.count("recipe: small.yaml, for 48 clips without a GPU; picture and sound") == 1
    again = f"the same command goes on: selavi label {words[1]} --out {run}"
    assert again in said
    plan = json.loads((run / "label.json").read_text())
    monkeypatch.setattr(label_run, "make_plan", stop)  # nothing is planned anew
    assert main(again.partition(": selavi ")[2].split()) == 0
    assert json.loads((run / "label.json").read_text()) == plan | {"exported": 2}
    ended = capsys.readouterr()
    assert (run / "gallery" / "index.html").exists() and len(pq.read_table(run / "clusters.parquet")) == 48
    assert f"page:    {run}/gallery/index.html" in ended.err
    assert "labels:  The labels are" in ended.err and "agrees" in ended.out
    assert f"selavi export {run} --names names.csv" in ended.err


def test_stopped_after_training_it_does_not_train_again(
    tmp_path: Path, labelled_run: Path, not_again: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "copy"
    shutil.copytree(labelled_run, run)
    plan = json.loads((run / "label.json").read_text())
    (run / "label.json").write_text(json.dumps(plan | {"exported": 0}))
    done = list[str]()

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    again = ["label", plan["folder"], "--out", str(run)]
    monkeypatch.setattr(label_run, "evaluate", lambda _: done.append("measured"))
    monkeypatch.setattr(label_run, "export", interrupt)
    assert main(again) == 130
    monkeypatch.setattr(label_run, "export", lambda _: done.append("written"))
    assert main(again) == 0
    assert main(again) == 0  # it is done
    assert done == ["measured", "measured", "written"]
    assert json.loads((run / "label.json").read_text()) == plan


@pytest.mark.slow
def test_a_finished_run_is_trained_longer_measured_and_written_again(
    tmp_path: Path, labelled_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "copy"
    shutil.copytree(labelled_run, run)
    plan = json.loads((run / "label.json").read_text())
    (run / "label.json").write_text(json.dumps(plan | {"cost": {"epoch_s": 50.0, "labelling_s": 1.0}}))
    page = (run / "gallery" / "index.html").stat().st_mtime_ns
    assert main(["label", plan["folder"], "--out", str(run), "--more", "1"]) == 0
    said = capsys.readouterr().err
    assert "plan: 1 more epochs, about 50 s" in said
    assert f"selavi train {run} --more 1\n" in said
    assert json.loads((run / "status.json").read_text())["epochs"] == 3
    assert json.loads((run / "label.json").read_text())["exported"] == 3
    assert (run / "gallery" / "index.html").stat().st_mtime_ns > page


@pytest.mark.parametrize(("asked", "device"), [([], "on the GPU"), (["trainer.accelerator=cpu"], "without a GPU")])
def test_a_gpu_is_used_where_there_is_one_unless_it_is_not_asked_for(
    words: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: list[str],
    device: str,
) -> None:
    def stop(*_: object) -> None:
        raise Interrupted("planned", 75)

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(label_run, "train", stop)
    assert main([*words, *asked]) == 75
    assert f"for 48 clips {device}" in capsys.readouterr().err


def test_the_length_follows_from_the_speed_that_was_measured(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise Interrupted("planned", 75)

    monkeypatch.setattr(label_plan, "measure_model", lambda *_: ModelSpeed(0.5, 1.0, 8, "a slow machine"))
    monkeypatch.setattr(label_run, "train", stop)
    chosen = ("trainer.max_epochs", "optim.batch_size")
    assert main([word for word in words if not word.startswith(chosen)] + ["--minutes", "0.1"]) == 75
    plan = json.loads((tmp_path / "run" / "label.json").read_text())
    assert min(plan["cost"].values()) > 96  # 48 clips at half a clip a second; two groups at one
    config = load_config(RECIPES / f"{plan['recipe']}.yaml", plan["settings"])
    assert config.optim.batch_size == 16  # three steps an epoch
    assert config.trainer.max_epochs == 50  # 150 steps, which labels need: no more fits
    assert config.labelling.num_labellings == 2  # as asked for


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["-k", "7"], "was begun with -k 20, now 7"),
        (["optim.lr=1"], "was begun with settings ["),
    ],
)
def test_another_wish_is_no_resumption(
    labelled_run: Path, videos: Path, capsys: pytest.CaptureFixture[str], asked: list[str], message: str
) -> None:
    assert main(["label", str(videos), "--out", str(labelled_run), *asked]) == 2
    assert message in capsys.readouterr().err


def test_a_folder_that_has_moved_keeps_its_labels(
    labelled_run: Path, videos: Path, tmp_path: Path, not_again: None, capsys: pytest.CaptureFixture[str]
) -> None:
    run, gone = tmp_path / "run", tmp_path / "gone"
    shutil.copytree(labelled_run, run)
    plan = json.loads((run / "label.json").read_text())
    (run / "label.json").write_text(json.dumps(plan | {"folder": str(gone)}))
    for _ in range(2):
        assert main(["label", str(videos), "--out", str(run)]) == 0
    assert capsys.readouterr().err.count(f"{gone} is not there any more, and {videos} holds its clips") == 1
    assert json.loads((run / "label.json").read_text()) == plan


def test_a_run_of_another_folder_is_refused(
    labelled_run: Path, demo_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["label", str(demo_set), "--out", str(labelled_run)]) == 2
    assert f"{labelled_run} holds the labels of " in capsys.readouterr().err
    (tmp_path / "mine.txt").touch()
    assert main(["label", str(demo_set), "--out", str(tmp_path)]) == 2
    assert "holds something that `label` did not write (mine.txt)" in capsys.readouterr().err


def _nothing(folder: Path) -> None:
    folder.rmdir()


def _text(folder: Path) -> None:
    (folder / "notes.txt").write_text("none")


def _damaged(folder: Path) -> None:
    for number in range(3):
        (folder / f"{number}.mp4").write_text("<html>404</html>")


@pytest.mark.parametrize(
    ("fill", "code", "message"),
    [
        (_nothing, 2, "no such folder"),
        (_text, 2, "no media file in it"),
        (_damaged, 3, "3 of 3 files cannot be used"),
    ],
)
def test_bad_input_ends_with_what_to_do(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fill: Callable[[Path], None],
    code: int,
    message: str,
) -> None:
    (tmp_path / "videos").mkdir()
    fill(tmp_path / "videos")
    monkeypatch.chdir(tmp_path)
    assert main(["label", "videos"]) == code
    assert message in capsys.readouterr().err
    if code == 2:
        assert not (tmp_path / "runs").exists()
    else:
        assert "not_media: 3" in (tmp_path / "runs" / "videos" / "triage.md").read_text()
        assert main(["label", "videos"]) == code  # what the first call left does not stand in the way


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-k", "1"], "-k must be at least 2"),
        (["--minutes", "0"], "--minutes must be above 0"),
        (["--minutes", "nan"], "--minutes must be above 0"),
        (["--more", "-1"], "--more must be at least 0"),
        (["--more"], "has not begun"),
        (["-k", "100"], "more clips, or fewer clusters (-k)"),
        (["heads.num_cluster=3"], "did you mean heads.num_clusters?"),
    ],
)
def test_what_cannot_be_is_refused_before_training(
    videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    cache = f"data.cache_dir={videos.parent / '.selavi-cache'}"
    assert main(["label", str(videos), cache, "--out", str(tmp_path / "run"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run" / "config.resolved.yaml").exists()


def test_other_splits_are_named_with_the_command_that_labels_them(demo_set: Path, tmp_path: Path) -> None:
    """Only one split is trained on; whoever has more is told how those get labels."""
    result = label.LabelResult("videos", tmp_path, tmp_path, (), "", "", (), ("test",), 1.0)
    shown = list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda line, **_: shown.append(line))
        label.show(result)
    assert any(f"evaluate {tmp_path} --split test" in line for line in shown)


@pytest.mark.slow
def test_a_folder_without_any_wish(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is given but the folder: recipe, clusters, speed and length are those of this machine."""
    generate(tmp_path / "classes", clips_per_class={"train": 8}, progress=False)
    (tmp_path / "videos").mkdir()
    for number, path in enumerate(sorted((tmp_path / "classes").rglob("*.mp4"))):
        path.rename(tmp_path / "videos" / f"{number}.mp4")
    run = tmp_path / "run"
    cache = f"data.cache_dir={tmp_path / 'cache'}"
    assert main(["label", str(tmp_path / "videos"), "--minutes", "1", "--out", str(run), cache]) == 0
    said = capsys.readouterr().err
    assert "4 clusters (suggested by the number of clips; -k changes it)" in said and "as measured" in said
    config = load_run_config(run)
    assert config.optim.batch_size == 16 and config.trainer.max_epochs * 4 >= 150
    assert (run / "gallery" / "index.html").exists()
