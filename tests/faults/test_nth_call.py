"""The n-th call of a kind fails in a training, for n = 1, 2, 3 ... until a run ends without a fault.

After each fault: an exit code and a message, no traceback; what was there before is as it was, or the new one, whole;
no temporary file is left; and the same command goes on to the labels of the unbroken run.
"""

import csv
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from selavi.runs.checkpoint import read_checkpoint
from selavi.runs.folder import RunFolder
from tests.end_to_end.runs import Train, assert_same_run
from tests.faults.failing import FILE_FAULTS, failing, numbers

# A traceback of a thread is one, too.
pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


def check_whole(folder: Path) -> None:
    """Whatever of a run is there can be read."""
    files = RunFolder(folder)
    for path in (files.last_checkpoint, files.previous_checkpoint):
        if path.exists():
            read_checkpoint(path)
    for path in folder.rglob("*.parquet"):
        pq.read_table(path)


def fails_and_goes_on(
    kind: str, number: int, fit_short: Train, short_run: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> bool:
    """Train with a fault and go on; False where no fault fired."""
    capsys.readouterr()
    with failing(kind, folder, number) as fault:
        code = fit_short(folder)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    if not fault.fired:
        assert code == 0, error
        return False
    assert code in (0, 2), error  # 0: what failed was no part of the run, such as a log
    if code == 2:
        assert "error: " in error
    if kind != "unlink":  # what cannot be removed stays, until the next run
        assert list(folder.rglob("*.tmp")) == []
    check_whole(folder)
    assert fit_short(folder, "resume=auto") == 0
    assert_same_run(folder, short_run)
    assert list(folder.rglob("*.tmp")) == []
    return True


@pytest.mark.slow
@pytest.mark.end_to_end
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", [*FILE_FAULTS, "memory"])
def test_a_training_in_which_any_call_fails_ends_well_and_goes_on(
    fit_short: Train, short_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    def without_cache(folder: Path, *words: str) -> int:
        return fit_short(folder, "data.cache_gb=0", *words)

    train, unbroken = fit_short, short_run
    if kind == "memory":  # in a step and in a labelling, not while clips are decoded once for all
        train, unbroken = without_cache, tmp_path / "unbroken"
        assert train(unbroken) == 0
    swept = []
    for number in numbers():
        if not fails_and_goes_on(kind, number, train, unbroken, tmp_path / f"run{number}", capsys):
            break
        swept.append(number)
    assert len(swept) > 2
    print(f"{kind}: calls {swept} failed, one a run")


@pytest.mark.end_to_end
@pytest.mark.parametrize(("kind", "number"), [("replace", 6), ("open", 12)])
def test_one_call_fails_in_a_training(
    fit_short: Train, short_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, number: int
) -> None:
    """What the sweeps do, once for a checkpoint's name and once for its file."""
    assert fails_and_goes_on(kind, number, fit_short, short_run, tmp_path / "run", capsys)


@pytest.mark.slow
@pytest.mark.end_to_end
def test_a_clip_that_cannot_be_opened_once_is_listed_and_the_run_goes_on(
    fit_short: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in numbers():
        folder = tmp_path / f"run{number}"
        with failing("decode", folder, number) as fault:
            code = fit_short(folder, "data.cache_gb=0")
        assert code == 0
        assert "Traceback" not in capsys.readouterr().err
        if not fault.fired:
            assert not RunFolder(folder).bad_clips.exists()
            break
        with RunFolder(folder).bad_clips.open(newline="", encoding="utf-8") as file:
            assert len(list(csv.reader(file))) == 1
        assert len(pq.read_table(RunFolder(folder).labels("train"))) == 2 * 16
    assert number > 16


@pytest.mark.slow
@pytest.mark.end_to_end
def test_a_sum_over_processes_that_fails_leaves_a_run_that_goes_on(
    fit_short: Train, short_run: Path, tmp_path: Path
) -> None:
    """In one process, where it is a crash; among several test_processes.py has what it is then."""
    for number in numbers():
        folder = tmp_path / f"run{number}"
        with failing("all_sum", folder, number) as fault:
            try:
                assert fit_short(folder) == 0
            except RuntimeError as error:
                assert "lost touch" in str(error)
        if not fault.fired:
            break
        check_whole(folder)
        assert fit_short(folder, "resume=auto") == 0
        assert_same_run(folder, short_run)
        assert list(folder.rglob("*.tmp")) == []
    assert number > 3
