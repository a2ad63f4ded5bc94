import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch

from selavi.errors import UsageError
from selavi.labelling.bank import LabelBank, ids_of_bank
from selavi.runs.checkpoint import (
    newest_checkpoint,
    not_finite,
    open_checkpoint,
    read_checkpoint,
    set_aside,
    write_checkpoint,
)
from selavi.runs.folder import RunFolder
from selavi.runs.stored import read_all
from selavi.training.trainer import AtomicCheckpointIO


@pytest.fixture
def checkpoint() -> dict[str, Any]:
    return {
        "label_bank": LabelBank(["a", "b"], 2, 3).state_dict(),
        "state_dict": {"weight": torch.randn(3)},
        "epoch": 4,
    }


def test_what_is_saved_is_read_back(tmp_path: Path, checkpoint: dict[str, Any]) -> None:
    path = RunFolder(tmp_path).last_checkpoint
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    found = AtomicCheckpointIO().load_checkpoint(path)
    assert found["epoch"] == 4
    assert ids_of_bank(found["label_bank"]) == ["a", "b"]
    assert torch.equal(found["state_dict"]["weight"], checkpoint["state_dict"]["weight"])
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    AtomicCheckpointIO().remove_checkpoint(path)
    AtomicCheckpointIO().remove_checkpoint(path)
    assert not path.exists()


def test_a_failing_write_leaves_the_last_checkpoint(
    tmp_path: Path, checkpoint: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)

    def full_disk(_: object, file: IO[bytes]) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="No space left"):
        AtomicCheckpointIO().save_checkpoint({**checkpoint, "epoch": 5}, path)
    assert read_checkpoint(path)["epoch"] == 4
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_damaged_file_is_named(tmp_path: Path, checkpoint: dict[str, Any]) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(checkpoint, path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match=r"last\.ckpt is not a checkpoint of selavi, or it is damaged: \S"):
            read_checkpoint(path)
    with pytest.raises(UsageError, match=r"cannot read the checkpoint .*: No such file"):
        read_checkpoint(tmp_path / "none.ckpt")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_code_of_a_file_is_run(tmp_path: Path, trap: Callable[[Path], object]) -> None:
    sprung = tmp_path / "sprung"
    torch.save({"label_bank": trap(sprung)}, tmp_path / "trap.ckpt")
    (tmp_path / "pickle.ckpt").write_bytes(pickle.dumps(trap(sprung)))
    for name in ("trap.ckpt", "pickle.ckpt"):
        with pytest.raises(UsageError, match="is not a checkpoint of selavi, or it is damaged"):
            read_checkpoint(tmp_path / name)
    assert not sprung.exists()
    torch.load(tmp_path / "trap.ckpt", weights_only=False)
    assert sprung.exists(), "the trap is none: a weak test"


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], torch.zeros(2)], ids=["dict", "list", "tensor"])
def test_another_programs_file_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(UsageError, match="it holds no label bank"):
        read_checkpoint(tmp_path / "other.ckpt")


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.allclose(one.double(), other.double(), rtol=0, atol=0, equal_nan=True)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    return bool(one == other)


def test_no_damage_is_read_as_other_numbers(tmp_path: Path, checkpoint: dict[str, Any]) -> None:
    """Bits that are flipped, and files that end too early, anywhere: refused, or nothing that matters was hit."""
    path = tmp_path / "last.ckpt"
    write_checkpoint(checkpoint, path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            assert equal(read_all(open_checkpoint(path)), checkpoint)
            assert equal(read_checkpoint(path), checkpoint)
        except UsageError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 100  # the rest hit the padding between the parts, or times and rights of the archive
    for length in rng.integers(0, len(whole), 100):
        path.write_bytes(whole[:length])
        for read in (read_checkpoint, open_checkpoint):
            with pytest.raises(UsageError, match="damaged"):
                read(path)


def test_the_checkpoint_before_is_kept_and_found_while_the_last_one_is_missing(
    tmp_path: Path, checkpoint: dict[str, Any]
) -> None:
    folder = RunFolder(tmp_path)
    assert newest_checkpoint(folder) is None
    for epoch in (1, 2, 3):
        write_checkpoint({**checkpoint, "epoch": epoch}, folder.last_checkpoint)
    assert sorted(path.name for path in folder.last_checkpoint.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]
    newest = newest_checkpoint(folder)
    assert newest is not None and newest.content["epoch"] == 3 and newest.set_aside is None
    folder.last_checkpoint.unlink()  # killed between the two renamings
    newest = newest_checkpoint(folder)
    assert newest is not None and newest.content["epoch"] == 2 and newest.path == folder.previous_checkpoint


def test_a_damaged_one_is_set_aside_and_never_takes_the_place_of_the_one_before(
    tmp_path: Path, checkpoint: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path)
    for epoch in (1, 2):
        write_checkpoint({**checkpoint, "epoch": epoch}, folder.last_checkpoint)
    folder.last_checkpoint.write_bytes(b"")
    newest = newest_checkpoint(folder)
    assert newest is not None and newest.content["epoch"] == 1
    assert f"{folder.last_checkpoint} is not a checkpoint" in caplog.text
    set_aside(newest)
    write_checkpoint({**checkpoint, "epoch": 3}, folder.last_checkpoint)
    names = sorted(path.name for path in folder.last_checkpoint.parent.iterdir())
    assert names == ["last.ckpt", "last.damaged.1.ckpt", "previous.ckpt"]
    assert read_checkpoint(folder.previous_checkpoint)["epoch"] == 1
    folder.previous_checkpoint.write_bytes(b"PK")
    folder.last_checkpoint.write_bytes(b"")
    with pytest.raises(UsageError, match=r"last\.ckpt .* damaged.*previous\.ckpt .* damaged.*none to go on from"):
        newest_checkpoint(folder)


def test_what_is_not_finite_is_found_by_name() -> None:
    values = {"weights": {"a": torch.ones(2), "b": torch.tensor([1.0, float("inf")])}, "step": [torch.tensor(3), None]}
    values["more"] = (torch.tensor(float("nan")),)
    assert list(not_finite(values)) == ["weights.b", "more.0"]


# Saves once, and is killed before the second one takes its name.
KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from selavi import atomic
from selavi.labelling.bank import LabelBank
from selavi.runs.checkpoint import write_checkpoint

path = Path(sys.argv[1])
content = {"label_bank": LabelBank(["a"], 1, 2).state_dict()}
write_checkpoint({**content, "epoch": 4}, path)
os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
write_checkpoint({**content, "epoch": 5}, path)
"""


def test_a_killed_save_leaves_the_one_before_wherever_temporary_files_are(tmp_path: Path, repository: Path) -> None:
    """Nothing is written to $TMPDIR, which is often on another disk, and a rename across disks is no rename."""
    path, elsewhere = RunFolder(tmp_path).last_checkpoint, tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {**os.environ, "TMPDIR": str(elsewhere), "PYTHONPATH": str(repository)}
    process = subprocess.run([sys.executable, "-c", KILLED, str(path)], env=environment)
    assert process.returncode == -signal.SIGKILL
    assert read_checkpoint(path)["epoch"] == 4
    assert list(elsewhere.iterdir()) == []
    saved = newest_checkpoint(RunFolder(tmp_path))
    assert saved is not None and saved.path == path


def test_no_clock_says_which_checkpoint_is_newer(tmp_path: Path, checkpoint: dict[str, Any]) -> None:
    """It may have been set back between two saves."""
    folder = RunFolder(tmp_path)
    for epoch in (4, 5):
        write_checkpoint({**checkpoint, "epoch": epoch}, folder.last_checkpoint)
    os.utime(folder.last_checkpoint, (1e9, 1e9))
    assert folder.previous_checkpoint.stat().st_mtime > folder.last_checkpoint.stat().st_mtime
    saved = newest_checkpoint(folder)
    assert saved is not None and saved.content["epoch"] == 5
