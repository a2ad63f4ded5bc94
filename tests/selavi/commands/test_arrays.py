"""Scan, prepare and assign as the tasks of a SLURM array: each alone, and together the bytes of one process."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import pytest

from datamodules import processes
from datamodules.index import new_clips, notebook
from datamodules.stores import prepare as preparing
from selavi.atomic import claim, hold, hold_together
from tools import assign, prepare, scan

SIZES = ["--size", "32", "--sample-rate", "8000", "--shard-mb", "1"]


@pytest.fixture
def no_workers(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Files are looked into in this process; the list counts them."""
    done: list[int] = []

    def run_jobs(function: Callable[[Any], Any], jobs: Iterable[Any], **_: object) -> Iterator[tuple[int, Any]]:
        for number, job in enumerate(jobs):
            done.append(number)
            yield number, processes._call(function, job, 2**40)

    for module in (notebook, preparing):
        monkeypatch.setattr(module, "run_jobs", run_jobs)
    return done


def files_of(folder: Path) -> dict[str, bytes]:
    """What every file holds, but for the lock, which says who wrote here and when."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock" and path.name != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def as_task(patch: pytest.MonkeyPatch, number: int, count: int = 3) -> None:
    """What SLURM says to a task of --array=5-7, or of another count from 5 on."""
    patch.setenv("SLURM_ARRAY_TASK_ID", str(5 + number))
    patch.setenv("SLURM_ARRAY_TASK_MIN", "5")
    patch.setenv("SLURM_ARRAY_TASK_COUNT", str(count))


@pytest.fixture
def folder(media: Path, demo_set: Path, tmp_path: Path) -> Path:
    """Good and bad files, and two that are the same."""
    root = tmp_path / "media"
    for path in [*media.iterdir(), *sorted(demo_set.rglob("*.mp4"))[:12]]:
        target = root / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (root / "copy.mp4").write_bytes((media / "plain.mp4").read_bytes())
    return root


def test_a_scan_in_tasks_writes_what_one_process_writes(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    no_workers: list[int],
) -> None:
    def scanned(name: str, *more: str) -> dict[str, bytes]:
        words = [
            str(folder),
            "--cache-dir",
            str(tmp_path / f"cache-{name}"),
            "--out",
            str(tmp_path / name / "m.parquet"),
        ]
        assert scan.main([*words, *more]) == 0
        return files_of(tmp_path / name)

    whole = scanned("whole")
    assert set(whole) == {"m.parquet", "triage.md", "doubles.csv"}
    num_files = len(no_workers)
    no_workers.clear()
    with monkeypatch.context() as patch:
        for done, number in enumerate((2, 0, 1)):
            as_task(patch, number)
            assert ("m.parquet" in scanned("shared")) == (done == 2)
            said = capsys.readouterr().err
            assert (f"task {number}/3 is done" in said) == (done < 2)
        assert len(no_workers) == num_files  # no file twice
        assert files_of(tmp_path / "shared") == whole
        scanned("shared")
        assert len(no_workers) == num_files
        assert scan.main([str(folder), "--near-doubles"]) == 2
        assert "--near-doubles decodes every file, and is not shared" in capsys.readouterr().err
        patch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
        as_task(patch, 1, count=2)
        scanned("broken")  # the other task is never started
    [lines] = (tmp_path / "cache-broken").glob("scan-*.jsonl")
    with lines.open("a") as written:  # by a task that is still at work: nobody takes its lines away
        claim(written)
        assert scanned("broken", "--task", "0/1") == whole
        assert lines.exists()
    (folder / "new.mp4").write_bytes(b"")
    scanned("broken", "--task", "0/1")
    assert not list((tmp_path / "cache-broken").glob("scan-*.jsonl"))


def test_shards_in_tasks_are_those_of_one_process(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    no_workers: list[int],
) -> None:
    def prepared(name: str, *more: str, code: int = 0) -> dict[str, bytes]:
        out = tmp_path / name
        assert prepare.main([str(folder), str(out), "--cache-dir", str(tmp_path / "cache"), *SIZES, *more]) == code
        return files_of(out)

    monkeypatch.setattr(preparing, "assign_shards", shards_of_three(preparing.assign_shards))
    whole = prepared("whole")
    assert sum(name.endswith(".tar") for name in whole) >= 4
    no_workers.clear()
    with monkeypatch.context() as patch:
        for done, number in enumerate((1, 2, 0)):
            as_task(patch, number)
            assert ("shards.json" in prepared("shared")) == (done == 2)
            assert (f"{2 - done} of 3 tasks are still to end" in capsys.readouterr().err) == (done < 2)
        assert files_of(tmp_path / "shared") == whole
        encoded = len(no_workers)
        assert prepared("shared") == whole and len(no_workers) == encoded  # a task that is started again
        prepared("files", "--format", "files", code=2)
        assert "small files are made by one process" in capsys.readouterr().err
        prepared("half")
        prepared("half", "--quality", "50", code=2)
        assert "was begun with other input" in capsys.readouterr().err
    assert prepared("half", "--task", "0/1") == whole


def shards_of_three(assign_shards: Callable[..., Any]) -> Callable[..., Any]:
    """Many shards of few clips, so that there is something to share."""

    def assigned(rows: Any, settings: Any) -> Any:
        order, _ = assign_shards(rows, settings)
        ends = [*range(3, len(order), 3), len(order)]
        return order, preparing.np.array(ends)

    return assigned


def test_a_task_twice_and_a_task_beside_one_that_does_everything_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_workers: list[int]
) -> None:
    out = tmp_path / "out"
    words = [str(folder), str(out), "--cache-dir", str(tmp_path / "cache"), *SIZES]
    assert prepare.main([*words, "--task", "1/2"]) == 0
    other = hold(out / "parts" / "task-0-of-2.lock")
    assert other is not None
    with other:
        assert prepare.main([*words, "--task", "0/2"]) == 2
    assert "another process is at work on task 0/2" in capsys.readouterr().err
    everything = hold(out / "prepare.lock")
    assert everything is not None
    with everything:
        assert prepare.main([*words, "--task", "0/2"]) == 2
        assert "being prepared by another process, which does everything" in capsys.readouterr().err
    share = hold_together(out / "prepare.lock")
    assert share is not None
    with share:
        assert prepare.main(words) == 2
        assert "being prepared by another process" in capsys.readouterr().err
        assert prepare.main([*words, "--task", "0/2"]) == 0


def test_an_array_labels_as_one_process(
    finished_run: Path, demo_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(finished_run), str(demo_set / "test"), "--shard-clips", "3", "--workers", "0", "--views", "1"]
    assert assign.main([*words, "--out", str(tmp_path / "whole")]) == 0
    for number in (1, 0):
        as_task(monkeypatch, number, count=2)
        assert assign.main([*words, "--out", str(tmp_path / "shared")]) == 0
    assert files_of(tmp_path / "shared") == files_of(tmp_path / "whole")


@pytest.mark.slow
def test_tasks_at_the_same_time(folder: Path, tmp_path: Path, repository: Path) -> None:
    """Three processes, of each command, that begin together."""

    def run(tool: str, *words: object, task: int | None = None) -> subprocess.Popen[str]:
        environment = os.environ | {"PYTHONPATH": str(repository)}
        if task is not None:
            environment |= {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_COUNT": "3"}
        command = [sys.executable, str(repository / "tools" / f"{tool}.py"), *map(str, words), "--workers", "1"]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)

    def finish(*started: subprocess.Popen[str]) -> None:
        for process in started:
            _, error = process.communicate(timeout=200)
            assert process.returncode == 0, error

    for name, tasks in (("whole", (None,)), ("shared", (0, 1, 2))):
        cache = ("--cache-dir", tmp_path / f"cache-{name}")
        out = ("--out", tmp_path / f"manifest-{name}" / "m.parquet")
        finish(*(run("scan", folder, *cache, *out, task=task) for task in tasks))
        finish(*(run("prepare", folder, tmp_path / f"shards-{name}", *cache, *SIZES, task=task) for task in tasks))
    for kind in ("manifest", "shards"):
        assert files_of(tmp_path / f"{kind}-shared") == files_of(tmp_path / f"{kind}-whole")


PREPARED = ["parts/prepare.lock", "prepare.parquet", ".prepare.json.1.tmp", "prepare.json", "parts/0", "000000.tar"]
LISTED = [".manifest.parquet.1.tmp", "manifest.parquet", ".embed.json.1.tmp", "embed.json", "parts", "video.npy"]


@pytest.mark.parametrize("kind", ["prepare", "list"])
@pytest.mark.parametrize(("before", "between", "after"), list(combinations_with_replacement(range(7), 3)))
def test_a_folder_in_which_another_task_begins_is_its_own(
    kind: str, before: int, between: int, after: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other task has written so much at first, so much when the names are listed, and so much thereafter."""
    out, names = tmp_path / "out", PREPARED if kind == "prepare" else LISTED
    out.mkdir()
    (out / ("prepare.lock" if kind == "prepare" else new_clips.LOCK)).touch()

    def has_written(number: int) -> None:
        for name in names[:number]:
            if not name.endswith(".tmp") or name == names[number - 1]:
                (out / name).parent.mkdir(exist_ok=True)
                (out / name).touch()

    def listed(path: Path, read: Callable[[Path], list[str]] = os.listdir) -> list[str]:
        has_written(between)
        found = read(path)
        has_written(after)
        return found

    has_written(before)
    monkeypatch.setattr(os, "listdir", listed)
    if kind == "prepare":
        preparing.require_place(tmp_path / "media", out)
    else:
        new_clips._require_place(out, "embed.json")
