import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from selavi.errors import UsageError
from selavi.labelling.bank import LabelBank
from selavi.runs.checkpoint import read_checkpoint
from selavi.runs.folder import RunFolder
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
    assert found["label_bank"]["ids"] == ["a", "b"]
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

    def full_disk(_: object, file: Path) -> None:
        Path(file).write_bytes(b"half of it")
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
