"""Tensors that stay in the file of a checkpoint until they are needed."""

import json
import sys
import zipfile
from collections import OrderedDict
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from selavi.errors import UsageError
from selavi.labelling.bank import LabelBank
from selavi.runs import stored
from selavi.runs.checkpoint import OF_CLIPS, newest_checkpoint, open_checkpoint, read_checkpoint, write_checkpoint
from selavi.runs.folder import RunFolder
from selavi.runs.stored import Stored, leave_in_file, read_all, read_rows, read_shared
from selavi.training.trainer import AtomicCheckpointIO
from tests import ranks

N, H = 200_000, 3


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of each read of an open checkpoint."""
    counts: list[int] = []
    read = stored._OpenFile.read_into

    def count(self: Any, place: int, memory: Tensor) -> None:
        counts.append(memory.nbytes)
        read(self, place, memory)

    monkeypatch.setattr(stored._OpenFile, "read_into", count)
    return counts


def bank_of(num_clips: int) -> LabelBank:
    bank = LabelBank([f"train/{number}.mp4" for number in range(num_clips)], H, 5)
    bank.labels = torch.arange(num_clips * H, dtype=torch.int32).view(num_clips, H) % 5
    bank.num_labellings = 2
    return bank


def write(path: Path, num_clips: int = N) -> LabelBank:
    bank = bank_of(num_clips)
    statistics = torch.rand(H, 4, num_clips).permute(1, 2, 0)
    callbacks = {"Labelling": {"churn": [0.5], "statistics": {"margin": statistics[1], "entropy": statistics[2]}}}
    weights = {"weight": torch.randn(300, 400), "scale": torch.tensor(2.0)}
    content = {"label_bank": bank.state_dict(), "callbacks": callbacks, "state_dict": weights, "epoch": 3}
    write_checkpoint(content, path)
    return bank


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        same = one.dtype == other.dtype and one.stride() == other.stride() and type(one) is type(other)
        return same and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return type(one) is type(other) and all(map(equal, one, other))
    return bool(one == other)


def test_what_is_read_is_what_torch_reads(tmp_path: Path) -> None:
    base = torch.randn(6, 4)
    weights = OrderedDict(a=base.T, b=base[2:], c=torch.tensor(-1).expand(4, 2), d=torch.empty(0, 3), e=torch.tensor(7))
    weights["f"] = torch.tensor([True, False])
    weights["g"] = torch.randn(5).bfloat16()
    values = {"weights": weights, "mixed": [1, "x", (torch.arange(3), None), base.shape], "none": {}, "pair": (1, 2)}
    torch.save(values, tmp_path / "values.pt")
    expected = torch.load(tmp_path / "values.pt", weights_only=True)
    left = leave_in_file(tmp_path / "values.pt")
    assert isinstance(left["weights"]["a"], Stored) and isinstance(left["mixed"][2][0], Stored)
    read = read_all(left)
    assert equal(read, expected)
    assert isinstance(read["weights"], OrderedDict)
    read["weights"]["a"][0, 2] = 9
    assert read["weights"]["b"][0, 0] == 9  # they are views of the same bytes, as they were


def test_a_torch_that_notes_no_places_reads_it_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under the name that it notes them by there may be nothing in another version."""
    path = tmp_path / "last.ckpt"
    bank = write(path, 100)
    with monkeypatch.context() as patch:
        patch.setattr(stored, "_place_of", lambda memory: None)
        content = open_checkpoint(path)
        for name in ("state_dict", "callbacks"):
            assert equal(content[name], read_checkpoint(path)[name])
        assert isinstance(read_all(content)["label_bank"]["labels"], Tensor)
        again = bank_of(100)
        again.labels = again.labels * 0
        again.load_state_dict(content["label_bank"])
    assert torch.equal(again.labels, bank.labels)


def test_a_run_goes_on_with_what_it_saved_and_no_process_reads_more_than_it_needs(
    tmp_path: Path, reads: list[int]
) -> None:
    path = RunFolder(tmp_path).last_checkpoint
    bank = write(path)
    ids, labels = bank.state_dict()["ids"], bank.labels.nbytes
    saved = newest_checkpoint(RunFolder(tmp_path))
    assert saved is not None and saved.content["epoch"] == 3
    assert not reads
    LabelBank(bank.ids, H, 5).check(saved.content["label_bank"])
    assert sum(reads) == ids["text"].nbytes + ids["lengths"].nbytes
    assert max(reads) < ids["text"].nbytes / 2
    reads.clear()
    content = AtomicCheckpointIO().load_checkpoint(path)
    assert torch.equal(content["state_dict"]["weight"], read_checkpoint(path)["state_dict"]["weight"])
    assert max(reads) == 300 * 400 * 4 and sum(reads) < 300 * 400 * 4 + 1000
    reads.clear()
    again = LabelBank(bank.ids, H, 5)
    again.load_state_dict(content["label_bank"])
    assert torch.equal(again.labels, bank.labels) and again.num_labellings == 2
    assert reads.count(labels) == 1 and sum(reads) == labels + ids["text"].nbytes + ids["lengths"].nbytes
    reads.clear()
    statistics = read_all(deepcopy(content["callbacks"]["Labelling"]["statistics"]))  # as Lightning copies it
    assert equal(statistics, read_checkpoint(path)["callbacks"]["Labelling"]["statistics"])
    assert len(reads) == 1  # both are views of the same bytes


def test_given_labels_that_are_the_labels_are_read_once(tmp_path: Path, reads: list[int]) -> None:
    bank = bank_of(100)
    bank.given = bank.labels
    write_checkpoint({"label_bank": bank.state_dict()}, tmp_path / "last.ckpt")
    content = read_all(open_checkpoint(tmp_path / "last.ckpt"), but=OF_CLIPS)
    again = LabelBank(bank.ids, H, 5)
    again.load_state_dict(content["label_bank"])
    assert again.given is not None and torch.equal(again.given, bank.labels)
    assert again.given.data_ptr() == again.labels.data_ptr()
    assert reads.count(bank.labels.nbytes) == 1


@pytest.mark.parametrize("num_clips", [99_999, 100_001, 1])
def test_other_ids_in_a_file_are_refused(tmp_path: Path, num_clips: int) -> None:
    write_checkpoint({"label_bank": bank_of(100_000).state_dict()}, tmp_path / "last.ckpt")
    state = open_checkpoint(tmp_path / "last.ckpt")["label_bank"]
    with pytest.raises(UsageError, match=f"labels 100000 clips, the data now has {num_clips}"):
        bank_of(num_clips).check(state)
    other = bank_of(100_000)
    other.ids = type(other.ids)([*other.ids[:99_999], "train/another.mp4"])
    with pytest.raises(UsageError, match=r"1 is gone \(such as 'train/99999.mp4'\), 1 is new"):
        other.check(state)


def test_rows_are_read_alone(tmp_path: Path) -> None:
    torch.save({"all": torch.arange(100), "some": torch.arange(100)[20:]}, tmp_path / "values.pt")
    left = leave_in_file(tmp_path / "values.pt")
    assert read_rows(left["some"], 3, 6).tolist() == [23, 24, 25]
    assert read_rows(left["all"], 3, 3).tolist() == []
    assert read_rows(torch.arange(9), 3, 6).tolist() == [3, 4, 5]


def test_a_file_that_is_gone_meanwhile_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    bank = write(path, 50)
    content = open_checkpoint(path)
    write(path, 40)
    path.unlink()
    again = LabelBank(bank.ids, H, 5)
    again.load_state_dict(read_all(content, but=OF_CLIPS)["label_bank"])
    assert torch.equal(again.labels, bank.labels)


def test_a_file_that_is_cut_off_meanwhile_is_no_file_of_zeros(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write(path)
    state = open_checkpoint(path)["label_bank"]
    with path.open("r+b") as file:
        file.truncate(1000)
    with pytest.raises(UsageError, match=r"cannot read the checkpoint .*last\.ckpt: it ends too early"):
        read_shared({"labels": state["labels"]})


def test_parts_that_somebody_has_compressed_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "last.ckpt", 50)
    packed = tmp_path / "packed.ckpt"
    with zipfile.ZipFile(tmp_path / "last.ckpt") as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            new.writestr(part.filename, old.read(part))
    with pytest.raises(UsageError, match=r"packed\.ckpt is not a checkpoint .*: its parts are compressed"):
        open_checkpoint(packed)


# Three processes go on from a checkpoint, the third as if on another machine; one may fail to read so many bytes.
GOING_ON = """
import json, sys
from datetime import timedelta
from pathlib import Path
import torch
import torch.distributed as dist
from selavi import shared_tensor
from selavi.errors import UsageError
from selavi.runs import stored
from selavi.training.trainer import AtomicCheckpointIO
from selavi.labelling.labeller import Draft
from tests.selavi.runs.test_stored import H, N, bank_of

rank, path, fails, at_bytes = int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
if rank == 2:
    shared_tensor._machine = lambda: 2
dist.init_process_group("gloo", rank=rank, world_size=3, timeout=timedelta(seconds=100))
counts, read = [], stored._OpenFile.read_into

def count(self, place, memory):
    counts.append(memory.nbytes)
    if rank == fails and memory.nbytes == at_bytes:
        raise UsageError(f"cannot read the checkpoint {self.path}: Stale file handle")
    read(self, place, memory)

stored._OpenFile.read_into = count
bank, said, drafted = bank_of(N), "", 0
expected, bank.labels = bank.labels, torch.tensor(-1, dtype=torch.int32).expand(N, H)
try:
    content = AtomicCheckpointIO().load_checkpoint(path)
    bank.load_state_dict(content["label_bank"])
    assert torch.equal(bank.labels, expected)
    before = len(counts)
    draft = Draft.from_state(bank, content["draft"], path.parent)
    assert torch.equal(draft.labels, expected + 1)
    drafted = sum(counts[before:])
except UsageError as error:
    said = str(error)
figures = {"labels": counts.count(4 * N * H), "largest": max(counts, default=0), "said": said, "drafted": drafted}
print(json.dumps(figures))
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is shared on Linux")
@pytest.mark.parametrize(
    ("fails", "at_bytes"),
    [
        (-1, 0),
        (2, 4 * N * H),
        pytest.param(1, 4 << 16, marks=pytest.mark.slow),
        pytest.param(1, 300 * 400 * 4, marks=pytest.mark.slow),
    ],
    ids=["all goes well", "one cannot read labels", "one cannot read ids", "one cannot read weights"],
)
def test_one_process_of_a_machine_reads_for_the_others(tmp_path: Path, fails: int, at_bytes: int) -> None:
    path = tmp_path / "last.ckpt"
    bank = bank_of(N)
    rule = bank.rule.tensors()
    draft: dict[str, Any] = {
        "labels": bank.labels + 1,
        "probe": bank.probe,
        "statistics": None,
        "heads": [],
        "num_groups": 1,
        **rule,
    }
    draft |= {"seconds": 1.0, "keeps_first": False, "least_learned": 0.5}
    weights = torch.zeros(300, 400)
    write_checkpoint({"label_bank": bank.state_dict(), "draft": draft, "state_dict": {"weight": weights}}, path)
    outputs = ranks.outputs(3, lambda rank: ["-c", GOING_ON, str(rank), str(path), str(fails), str(at_bytes)])
    said = [json.loads(out.splitlines()[-1]) for out in outputs]
    whole = 4 * N * H
    if fails >= 0:
        assert {one["said"] for one in said} == {f"cannot read the checkpoint {path}: Stale file handle"}
        return
    assert [one["labels"] for one in said] == [2, 0, 2]  # the bank's and the draft's
    assert [one["drafted"] for one in said] == [whole, 0, whole]
    assert said[1]["largest"] < whole / 2
