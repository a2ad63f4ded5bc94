"""Features that are encoded whenever a block of them is read are those that are kept."""

import torch
from torch import Tensor

from selavi.labelling.bank import LabelBank
from selavi.labelling.features import EncodedBlocks, EncodedRows, FeatureTable
from selavi.labelling.labeller import Labeller
from tests.selavi.labelling.test_equal_votes import BOTH, Clips, H, K, N, settings


def lazily(table: FeatureTable, calls: list[int]) -> FeatureTable:
    """The same table, read from itself by blocks."""

    def encode(rows: Tensor) -> dict[str, Tensor]:
        calls.append(len(rows))
        return {name: values[rows] for name, values in table.whole.items()}

    blocks = EncodedBlocks(encode)
    rows = torch.arange(len(table.index))
    features = {name: EncodedRows(blocks, name, rows, values.shape[1]) for name, values in table.features.items()}
    return FeatureTable(table.index, features, table.present)


def labelled(lazy: bool, calls: list[int], *overrides: str) -> Tensor:
    config = settings(*overrides)
    clips = Clips(config, dict(BOTH))
    bank = LabelBank([str(n) for n in range(N)], H, K)
    labeller = Labeller(config)

    def collect(number: int) -> FeatureTable:
        table = clips.collect(number)
        return lazily(table, calls) if lazy else table

    for last in (False, True):
        labeller.relabel(bank, collect, clips.head_logits, lambda *_: None, statistics=last)
    assert bank.probe.isfinite().all()
    return bank.labels


def test_labels_are_the_same() -> None:
    calls: list[int] = []
    assert torch.equal(labelled(True, calls), labelled(False, []))
    assert calls and max(calls) <= N


def test_kmeans_reads_them_whole() -> None:
    overrides = ("labelling.method=kmeans", "labelling.source=concat")
    assert torch.equal(labelled(True, [], *overrides), labelled(False, [], *overrides))


def test_branches_of_a_block_are_encoded_together_and_some_rows_alone() -> None:
    calls: list[int] = []
    index = torch.arange(6)
    present = {"a": torch.tensor([True] * 4 + [False] * 2), "b": torch.tensor([False, True] * 3)}
    table = FeatureTable(index, {name: torch.randn(6, 2) for name in "ab"}, present)
    lazy = lazily(table, calls)
    for name in "ab":
        assert torch.equal(lazy.features[name][1:4], table.whole[name][1:4])
    assert calls == [3]
    some, kept = lazy.with_any(["a"]), table.with_any(["a"])
    assert some.index.tolist() == [0, 1, 2, 3]
    assert torch.equal(some.whole["b"], kept.whole["b"]) and some.features["b"].shape == (4, 2)
