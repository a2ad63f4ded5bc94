"""Media and run folders that are moved, only read, or gone for a while."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from datamodules.synthetic import generate_long
from selavi.commands.main import find_command
from selavi.errors import Interrupted
from selavi.guarded.parquet import write_parquet
from selavi.media import decode_frames_at
from selavi.runs.folder import RunFolder
from selavi.runs.manifest import read_manifest
from selavi.training import callbacks
from tests.end_to_end.runs import Train, assert_same_run
from tests.end_to_end.test_sound_alone import as_wav
from tools import assign, cluster_eval, export_clusters, train

pytestmark = [pytest.mark.end_to_end, pytest.mark.slow]

KINDS: dict[str, list[str]] = {
    "films": [],
    "pieces": ["data.cut=every", "data.cut_s=2"],
    "sound": ["modalities=[audio]"],
    "pictures": [
        *("modalities=[image]", "image.decode_size=24", "image.size=16"),
        *("encoders.image_width=8", "encoders.image_depth=9", "encoders.image_stem=plain"),
    ],
    "list": ["data.list=list.csv"],
}
READERS = {
    "evaluate": ["evaluate", "RUN", "--views", "1"],
    "evaluate another split": ["evaluate", "RUN", "--split", "test", "--views", "1", "--report", "--yardsticks"],
    "export": ["export", "RUN", "--clips", "2", "--evidence", "1"],
    "export copies": ["export", "RUN", "--clips", "1", "--evidence", "0", "--media", "copy", "--to", "features"],
    "probe": ["probe", "RUN", "--views", "1"],
    "compare": ["compare", "--runs", "RUN", "--splits", "test", "--seeds", "0", "--out", "compared", "--views", "1"],
    "degrade": ["degrade", "RUN", "--corruptions", "blur", "--out", "degraded", "--views", "1"],
    "refit": ["refit", "RUN", "-k", "3", "--out", "refitted"],
    "assign": ["assign", "RUN", "RUN/manifest.parquet", "--out", "assigned", "--views", "1", "--workers", "0"],
    "embed": ["embed", "RUN/manifest.parquet", "--with", "RUN", "--out", "embedded", "--workers", "0"],
    "train": ["train", "RUN", "--more", "1"],
}
WRITE_ELSEWHERE = ["compare", "degrade", "refit", "assign", "embed"]


def make_media(kind: str, root: Path, demo_set: Path) -> None:
    """A small folder of each kind of media, half of it to train on."""
    if kind == "pieces":
        names = ("train/a/1.mp4", "train/a/2, 50%.mp4", "train/b/3.mp4", "train/b/4.mp4", "test/a/5.mp4")
        for number, name in enumerate(names):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            generate_long(root / name, seed=number, length_s=24 if name.startswith("test") else 12, event_s=(4, 8))
        return
    for film in sorted(demo_set.rglob("*.mp4")):
        target = root / film.relative_to(demo_set)
        target.parent.mkdir(parents=True, exist_ok=True)
        if kind == "sound":
            as_wav(film, target.with_suffix(".wav"))
        elif kind == "pictures":
            Image.fromarray(decode_frames_at(film, [0.0], 32)[0]).save(target.with_suffix(".png"))
        else:
            shutil.copyfile(film, target)


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything below a folder, but for locks."""
    entries = [path for path in [folder, *folder.rglob("*")] if path.name != ".lock"]
    return {str(path): (path.stat().st_size if path.is_file() else 0, path.stat().st_mtime_ns) for path in entries}


def call(words: list[str], run: Path, *more: str) -> int:
    name, *rest = [word.replace("RUN", str(run)) for word in words]
    return find_command(name).main([*rest, *more])


def cut_off(settings: Path, **values: object) -> None:
    """Replace settings of the data section in a file of a run."""
    lines = settings.read_text(encoding="utf-8").splitlines()
    for name, value in values.items():
        lines = [f"  {name}: {value}" if line.startswith(f"  {name}:") else line for line in lines]
    settings.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_command_finds_moved_media_of_a_copied_run(
    kind: str,
    demo_set: Path,
    tiny_yaml: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Trained in one place, with paths from there, and used in another one, of which nothing was ever written down."""
    here, there = tmp_path / "here", tmp_path / "there"
    there.mkdir()
    make_media(kind, here / "media", demo_set)
    monkeypatch.chdir(here)
    if kind == "list":
        films = [film.relative_to("media") for film in sorted(Path("media").rglob("*.mp4"))]
        lines = [f"{film},{film.parent.name},{film.parts[0]}" for film in films]
        Path("list.csv").write_text("\n".join(["path,label,split", *lines]) + "\n")
    usual = ["data.root=media", "data.cache_dir=cache", "data.cache_gb=0", "run_dir=runs/one", *KINDS[kind]]
    assert train.main(["--config", str(tiny_yaml), *usual]) == 0
    new, run = there / "new place", there / "copied"
    shutil.copytree("media", new, copy_function=shutil.copyfile)
    shutil.copytree("runs/one", run, copy_function=shutil.copyfile)
    monkeypatch.chdir(there)
    here.rename(tmp_path / "gone")
    media = state_of(new)
    for name, words in READERS.items():
        own = state_of(run)
        assert call(words, run) == 2, name
        error = capfd.readouterr().err
        assert "data.root=NEW" in error, name
        if name == "train" and kind == "list":  # what the list said is in the run, but training reads it anew
            shutil.copyfile(tmp_path / "gone" / "list.csv", "copy.csv")
            words = ["train", "RUN", "--change", "data.list=copy.csv"]
            assert call(words, run, f"data.root={new}") == 0
            continue
        assert call(words, run, f"data.root={new}") == 0, name
        error = capfd.readouterr().err
        assert not any(word in error for word in ("vanished", "changed:", "placeholder", "nothing glows")), name
        if name in WRITE_ELSEWHERE:
            assert state_of(run) == own, name
    assert call(READERS["evaluate"], there / "refitted") == 0  # the new run knows where the media are now
    own = state_of(run)
    assert call(["convert", "RUN", "--out", "converted"], run) == 0
    assert state_of(run) == own
    assert state_of(new) == media


@pytest.fixture
def elsewhere(finished_run: Path, demo_set: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A copy of a finished run whose media were in a place that is gone, and a copy of these with other times."""
    run, new = tmp_path / "run", tmp_path / "new place"
    shutil.copytree(finished_run, run)
    shutil.copytree(demo_set, new, copy_function=shutil.copyfile)
    manifest = read_manifest(RunFolder(run).manifest)
    write_parquet(manifest.replace_schema_metadata({"root": str(tmp_path / "old")}), RunFolder(run).manifest)
    cut_off(RunFolder(run).settings, root=tmp_path / "old", cache_dir=tmp_path / "cache")
    return run, new


@pytest.mark.parametrize("name", ["export", "refit", "assign", "embed", "train"])
def test_commands_say_that_the_media_are_gone(
    elsewhere: tuple[Path, Path], name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = elsewhere
    monkeypatch.chdir(run.parent)
    assert call(READERS[name], run) == 2
    error = capsys.readouterr().err
    assert f"the media folder {run.parent / 'old'} is not there any more (No such file or directory)" in error
    assert "data.root=NEW" in error
    (run.parent / "old").mkdir()
    assert call(READERS[name], run) == 2
    assert "it is empty: is its drive mounted?" in capsys.readouterr().err
    assert not (run.parent / "assigned" / "parts").exists() and not RunFolder(run).gallery.exists()


def test_an_assignment_goes_on_where_the_media_are_now(
    elsewhere: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Begun in a folder that goes away; clips that are back are labelled by the same command."""
    run, new = elsewhere
    words = [str(run), str(new / "test"), "--out", str(tmp_path / "out"), "--workers", "0", "--shard-clips", "8"]
    film, away = min((new / "test").rglob("*.mp4")), tmp_path / "away.mp4"
    first = [*words, "--task", "0/2"]
    assert assign.main(first) == 0
    film.rename(away)
    (tmp_path / "out" / "parts" / "00000.parquet").unlink()
    assert assign.main(first) == 0
    away.rename(film)
    assert assign.main(first) == 0
    assert "1 shards with clips that could not be read for a while are done again" in caplog.text
    (new / "test").rename(tmp_path / "third place")
    assert assign.main(words) == 2
    assert assign.main([*words, f"data.root={tmp_path / 'third place'}"]) == 0
    assert "16 clips have labels\n" in capsys.readouterr().err


def test_a_page_without_media_is_written_when_it_is_asked_for(
    elsewhere: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = elsewhere
    assert export_clusters.main([str(run), "--media", "none"]) == 0
    said = capsys.readouterr().err
    assert "thumbnails: none, for there are no recordings" in said and "nothing glows" not in said
    assert (RunFolder(run).gallery / "index.html").exists() and RunFolder(run).clusters_csv.exists()
    assert export_clusters.main([str(run), "--media", "none", "--to", "videofolder"]) == 2


@pytest.mark.parametrize("name", ["evaluate", "export", "probe"])
def test_a_run_that_can_only_be_read_is_to_be_copied(
    finished_run: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != finished_run)  # the tests may run as root
    assert call(READERS[name], finished_run) == 2
    assert f"{finished_run} can only be read, and results go into it: copy the run" in capsys.readouterr().err


def test_a_cache_of_another_machine_is_not_needed(
    elsewhere: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run, new = elsewhere
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != run.parent)
    assert cluster_eval.main([str(run), "--views", "1", "--split", "test", f"data.root={new}"]) == 0
    assert "cache cannot be written: decoding each clip anew" in caplog.text
    assert not (run.parent / "cache").exists()


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> dict[int, Callable[[], object]]:
    """What happens once after a step of a training, such as to its media."""
    actions: dict[int, Callable[[], object]] = {}
    ended = callbacks.Progress.on_train_batch_end

    def act(self, trainer, *others: object) -> None:  # type: ignore[no-untyped-def]
        ended(self, trainer, *others)
        actions.pop(trainer.global_step, list)()

    monkeypatch.setattr(callbacks.Progress, "on_train_batch_end", act)
    return actions


def test_media_that_go_away_stop_the_training_which_goes_on_when_they_are_back(
    fit: Train,
    demo_set: Path,
    tmp_path: Path,
    at_step: dict[int, Callable[[], object]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A drive of the network that is gone after the first epoch, and is somewhere else later: the same labels."""
    media, folder, new = tmp_path / "media", tmp_path / "run", tmp_path / "mounted again"
    for name in sorted(os.listdir(demo_set / "train"))[:4]:
        shutil.copytree(demo_set / "train" / name, media / "train" / name)
    before = state_of(media)
    settings = [f"data.cache_dir={tmp_path / 'cache'}", "data.cache_gb=0", "heads.num_clusters=4", "resume=auto"]
    assert fit(tmp_path / "undisturbed", f"data.root={media}", *settings) == 0
    at_step[2] = lambda: media.rename(new)
    assert fit(folder, f"data.root={media}", *settings) == 3
    error = capsys.readouterr().err
    assert f"The media folder {media} is gone (No such file or directory): bring it back, or say data.root=NEW" in error
    assert "the same command with resume=auto goes on from the last checkpoint" in error
    assert fit(folder, f"data.root={media}", *settings) == 2
    assert f"the media folder {media} is not there any more" in capsys.readouterr().err
    assert fit(folder, f"data.root={new}", *settings) == 0
    assert_same_run(folder, tmp_path / "undisturbed")
    new.rename(media)
    assert state_of(media) == before


@pytest.mark.slow
def test_media_that_are_away_for_a_step_are_counted_and_forgiven(
    fit: Train, demo_set: Path, tmp_path: Path, at_step: dict[int, Callable[[], object]]
) -> None:
    """Within the budget the run goes on; a part that is taken up later begins with a whole budget again."""
    media, away, folder = tmp_path / "media", tmp_path / "away", tmp_path / "run"
    shutil.copytree(demo_set, media)
    settings = [f"data.root={media}", f"data.cache_dir={tmp_path / 'cache'}", "data.cache_gb=0", "resume=auto"]
    settings += ["data.max_bad_fraction=0.3", "labelling.num_labellings=2"]

    def stop() -> None:
        raise Interrupted("stopped by a test")

    at_step |= {1: lambda: media.rename(away), 2: lambda: away.rename(media), 5: stop}
    assert fit(folder, *settings) == 75
    assert (folder / "bad_clips.csv").read_text().count("vanished") == 8
    at_step |= {5: lambda: media.rename(away), 6: lambda: away.rename(media)}
    assert fit(folder, *settings) == 0
    assert (folder / "bad_clips.csv").read_text().count("vanished") == 16
