import multiprocessing
import os
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from selavi.atomic import hold, is_held, locked, next_free, write_atomically, write_text


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_text(path, "first")
    with write_atomically(path) as temporary:
        temporary.write_text("second")
        assert temporary.parent == path.parent
        assert path.read_text() == "first"
    assert path.read_text() == "second"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_a_failing_write_leaves_the_old_file_and_no_litter(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), write_atomically(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_nothing_appears_where_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), write_atomically(tmp_path / "file.txt"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_failing_replacement_leaves_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(PermissionError):
        write_text(tmp_path / "file.txt", "text")
    assert list(tmp_path.iterdir()) == []


def _hold(path: Path, log: Path, held: Event) -> None:
    with locked(path):
        held.set()
        time.sleep(0.3)
        log.write_text("the first process is done")


def test_a_second_process_waits_for_the_lock(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, log = context.Event(), tmp_path / "log"
    process = context.Process(target=_hold, args=(tmp_path / "locks" / "lock", log, held))
    process.start()
    assert held.wait(60)
    with locked(tmp_path / "locks" / "lock"):
        assert log.exists(), "the lock was given to two at once"
    process.join(60)
    assert process.exitcode == 0


def test_a_lock_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "lock"):
            pass


@pytest.mark.parametrize(
    ("there", "kept"),
    [
        ([], "names.1.csv"),
        (["names.csv"], "names.1.csv"),
        (["names.1.csv", "names.2.csv"], "names.3.csv"),
        (["names.2.csv"], "names.3.csv"),  # the first is gone: counting would overwrite the second
        (["names.9.csv", "names.10.csv"], "names.11.csv"),
        (["names.x.csv", "names.7.csv.bak", "other.8.csv", "names.1.parquet"], "names.1.csv"),
    ],
)
def test_what_is_kept_overwrites_nothing(tmp_path: Path, there: list[str], kept: str) -> None:
    for name in there:
        (tmp_path / name).write_text(name)
    assert next_free(tmp_path / "names.csv") == tmp_path / kept
    assert kept not in there


def test_who_looks_at_a_lock_leaves_it_as_it_is(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    assert not is_held(lock) and not lock.exists()
    file = hold(lock)
    assert file is not None
    text = lock.read_text()
    with file:
        assert is_held(lock)
        assert lock.read_text() == text
    assert not is_held(lock)
    again = hold(lock)  # looking has not taken it
    assert again is not None
    again.close()
    assert not is_held(lock / "below")  # a file is in the folder's place
