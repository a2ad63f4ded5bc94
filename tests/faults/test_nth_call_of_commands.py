"""The n-th call of a kind fails in prepare, assign and export, for n = 1, 2, 3 ... until a command meets no fault.

After each fault: exit code 0 or 2 and a message, no traceback; what was written before is still whole; no temporary
file is left; and the same command again writes what the unbroken one writes.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from datamodules import processes
from datamodules.stores import prepare as preparing
from selavi.commands import gallery_workers
from tests.faults.failing import FILE_FAULTS, failing, numbers
from tools import assign, cluster_eval, export_clusters, prepare

Command = Callable[[Path], int]

# A traceback of a thread is one, too.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


def in_this_process(
    function: Callable[[Any], Any], jobs: Iterable[Any], **settings: object
) -> Iterator[tuple[int, Any]]:
    """As processes.run_jobs, whose workers take seconds to start, and whose calls nobody counts."""
    for number, job in enumerate(jobs):
        outcome = processes._call(function, job, 2**32)
        if isinstance(outcome, Exception):
            raise outcome
        yield number, outcome


@pytest.fixture(autouse=True)
def no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (preparing, gallery_workers):
        monkeypatch.setattr(module, "run_jobs", in_this_process)


@pytest.fixture(scope="module")
def commands(few_clips: Path, short_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Command]:
    """Each writes below a folder, which `begin` has made."""
    cache = tmp_path_factory.mktemp("cache")
    words = ["--size", "32", "--sample-rate", "8000", "--workers", "1", "--cache-dir", str(cache)]
    return {
        "prepare": lambda folder: prepare.main([str(few_clips / "test"), str(folder / "set"), *words]),
        "assign": lambda folder: assign.main(
            [str(short_run), str(few_clips / "test"), "--out", str(folder / "set"), "--workers", "0", "--features"]
        ),
        "export": lambda folder: export_clusters.main(
            [str(folder / "run"), "--split", "test", "--evidence", "0", "--media", "copy", "--to", "cvat"]
        ),
    }


@pytest.fixture(scope="module")
def measured_run(short_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With labels of its test clips, and an export of before."""
    folder = Path(shutil.copytree(short_run, tmp_path_factory.mktemp("measured") / "run"))
    assert cluster_eval.main([str(folder), "--split", "test"]) == 0
    return folder


def begin(name: str, folder: Path, measured_run: Path) -> None:
    """Make what a command starts from."""
    folder.mkdir()
    if name == "export":
        shutil.copytree(measured_run, folder / "run")


def written(folder: Path) -> dict[str, bytes]:
    """What a command has written, by name; the run's path stands in the page, and a lock says who had it."""
    contents = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and not path.name.endswith("lock") and not name.startswith("run/gallery/data"):
            contents[name] = path.read_bytes()
        elif path.is_file():
            contents[name] = b""
    return contents


def check_whole(folder: Path) -> None:
    for path in folder.rglob("*.parquet"):
        pq.read_table(path)


@pytest.mark.slow
@pytest.mark.end_to_end
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", FILE_FAULTS)
@pytest.mark.parametrize("name", ["prepare", "assign", "export"])
def test_a_command_in_which_any_call_fails_ends_well_and_is_made_good(
    commands: dict[str, Command],
    measured_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    kind: str,
) -> None:
    command = commands[name]
    begin(name, tmp_path / "unbroken", measured_run)
    assert command(tmp_path / "unbroken") == 0
    expected = written(tmp_path / "unbroken")
    swept = []
    for number in numbers():
        folder = tmp_path / f"at{number}"
        begin(name, folder, measured_run)
        capsys.readouterr()
        with failing(kind, folder, number) as fault:
            code = command(folder)
        error = capsys.readouterr().err
        assert "Traceback" not in error, error
        if not fault.fired:
            assert code == 0, error
            break
        swept.append(number)
        assert code in (0, 2), error
        if code == 2:
            assert "error: " in error
        if kind != "unlink":  # what cannot be removed stays, until the next run
            assert list(folder.rglob("*.tmp")) == [], f"call {number}"
        check_whole(folder)
        assert command(folder) == 0, f"call {number}"
        again = written(folder)
        assert again.keys() == expected.keys(), f"call {number}: {again.keys() ^ expected.keys()}"
        differing = [path for path, content in expected.items() if again[path] != content]
        assert differing == [], f"call {number}"
    print(f"{name}, {kind}: calls {swept} failed, one a run")
