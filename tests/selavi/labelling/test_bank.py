from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from selavi.errors import UsageError
from selavi.labelling.bank import LabelBank, ids_of_bank, probe_of_bank
from selavi.runs.checkpoint import read_checkpoint, write_checkpoint


def filled(ids: str = "abcd", num_heads: int = 2, num_clusters: int = 3) -> LabelBank:
    bank = LabelBank(list(ids), num_heads, num_clusters)
    bank.labels = torch.arange(len(ids) * num_heads, dtype=torch.int32).view(len(ids), num_heads) % num_clusters
    bank.rule.potentials = torch.randn(num_heads, num_clusters, dtype=torch.float64)
    bank.num_labellings = 3
    bank.probe = torch.linspace(0.25, 0.5, num_heads, dtype=torch.float64)
    return bank


def test_reading_before_the_first_labelling_raises() -> None:
    with pytest.raises(RuntimeError, match="before the first labelling"):
        LabelBank(["a"], 1, 2)[torch.tensor([0])]


def test_rows_are_read_by_index() -> None:
    bank = filled()
    labels = bank[torch.tensor([3, 0, 3])]
    assert labels.dtype == torch.int64
    assert labels.tolist() == [bank.labels[3].tolist(), bank.labels[0].tolist(), bank.labels[3].tolist()]
    assert bank[torch.tensor([1])].shape == (1, 2)


def test_a_saved_bank_is_taken_up_whole_and_as_a_copy() -> None:
    old, new = filled(), LabelBank(list("abcd"), 2, 3)
    new.load_state_dict(old.state_dict())
    assert torch.equal(new.labels, old.labels)
    assert torch.equal(new.rule.potentials, old.rule.potentials)
    assert new.num_labellings == 3
    assert new.probe.tolist() == [0.25, 0.5]
    new.labels[0] = 2
    new.probe[0] = 1
    new.rule.potentials[0] = 9
    assert not torch.equal(new.labels, old.labels)
    assert not torch.equal(new.rule.potentials, old.rule.potentials)
    assert old.probe.tolist() == [0.25, 0.5]


def test_a_bank_of_an_earlier_version_has_no_probe_scores() -> None:
    state = filled().state_dict()
    assert probe_of_bank(state).tolist() == [0.25, 0.5]
    del state["probe"]
    assert probe_of_bank(state) is None
    bank = LabelBank(list("abcd"), 2, 3)
    bank.load_state_dict(state)
    assert bank.probe.isnan().all()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            filled("abce"),
            r"3 of them the same: 1 is gone \(such as 'e'\), 1 is new \(such as 'd'\); bring back the media",
        ),
        (filled("abdc"), "4 of them the same: they come in another order"),
        (filled("abc"), "labels 3 clips, the data now has 4, 3 of them the same"),
        (filled(num_heads=3), r"labels have shape \(4, 3\), this configuration needs \(4, 2\)"),
        (filled(num_clusters=4), r"potentials have shape \(2, 4\), this configuration needs \(2, 3\)"),
    ],
    ids=["another clip", "another order", "a clip gone", "heads", "clusters"],
)
def test_a_bank_of_something_else_is_refused(other: LabelBank, message: str) -> None:
    bank = LabelBank(list("abcd"), 2, 3)
    with pytest.raises(UsageError, match=message):
        bank.load_state_dict(other.state_dict())
    assert bank.num_labellings == 0
    assert (bank.labels == -1).all()


def test_clips_weigh_what_their_cluster_does() -> None:
    bank = filled()
    assert torch.equal(bank.clip_weights(torch.tensor([2, 0])), torch.ones(2, 2))
    bank.weights = torch.tensor([[1.0, 2.0, 4.0], [0.5, 0.25, 8.0]])
    bank.labels[1, 0] = -1
    for row in (0, 2, 3):
        expected = [bank.weights[head, bank.labels[row, head]].item() for head in range(2)]
        assert bank.clip_weights(torch.tensor([row]))[0].tolist() == expected
    other = LabelBank(list("abcd"), 2, 3)
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other.weights, bank.weights)


def values_of(saved: Any) -> Iterator[object]:
    """Everything in nested lists and mappings that is neither of the two."""
    if isinstance(saved, dict | list | tuple):
        for value in saved.values() if isinstance(saved, dict) else saved:
            yield from values_of(value)
    else:
        yield saved


@pytest.mark.parametrize("num_clips", [0, 1, 100_000])
def test_a_checkpoint_holds_no_python_object_a_clip(tmp_path: Path, num_clips: int) -> None:
    ids = [f"train/caf\u00e9/{number}.mp4" for number in range(num_clips)]
    bank = LabelBank(ids, 2, 3)
    assert len([*values_of(bank.state_dict())]) < 20
    write_checkpoint({"label_bank": bank.state_dict()}, tmp_path / "last.ckpt")
    saved = read_checkpoint(tmp_path / "last.ckpt")["label_bank"]
    assert [*ids_of_bank(saved)] == ids
    LabelBank(ids, 2, 3).load_state_dict(saved)


def test_a_checkpoint_of_an_earlier_version_holds_a_list_of_ids() -> None:
    old, new = filled(), LabelBank(list("abcd"), 2, 3)
    state = old.state_dict() | {"ids": list("abcd")}
    assert ids_of_bank(state) == list("abcd")
    new.load_state_dict(state)
    assert torch.equal(new.labels, old.labels)
    with pytest.raises(UsageError, match=r"1 is gone \(such as 'e'\)"):
        new.load_state_dict(state | {"ids": list("abce")})


@pytest.mark.parametrize("damage", [{"lengths": [1, 1, 1, 2]}, {"lengths": [5, -1, 0, 0]}, {"text": [255] * 4}])
def test_damaged_ids_are_refused_in_words(damage: dict[str, list[int]]) -> None:
    state = filled().state_dict()
    kinds = {"lengths": torch.int32, "text": torch.uint8}
    state["ids"] |= {name: torch.tensor(values, dtype=kinds[name]) for name, values in damage.items()}
    with pytest.raises(UsageError, match=r"the checkpoint's ids are damaged .*: take the checkpoint before it"):
        ids_of_bank(state)
