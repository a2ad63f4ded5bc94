"""What the encoders say of clips: the table that a labelling reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FeatureTable:
    """Features of this rank's clips, from one view of each."""

    index: Tensor
    """(n,) rows in the label bank."""
    features: Mapping[str, Tensor | EncodedRows]
    """(n, D) a branch: a modality, or their concatenation where heads read that; read by blocks of rows."""
    present: Mapping[str, Tensor]
    """(n,) bool a branch."""

    @property
    def whole(self) -> dict[str, Tensor]:
        """The features of all rows, at once."""
        return {name: features[:] for name, features in self.features.items()}

    def with_any(self, branches: Sequence[str]) -> FeatureTable:
        """The clips that have at least one of the branches."""
        kept = torch.stack([self.present[name] for name in branches]).any(0)
        if kept.all():
            return self
        return FeatureTable(
            self.index[kept],
            {
                name: features.only(kept) if isinstance(features, EncodedRows) else features[kept]
                for name, features in self.features.items()
            },
            {name: present[kept] for name, present in self.present.items()},
        )


class EncodedBlocks:
    """Encodes blocks of clips when they are read; the last one is kept, as all branches of it are read in turn.

    Args:
        encode: numbers of clips (b,) -> (b, D) a branch.
    """

    def __init__(self, encode: Callable[[Tensor], Mapping[str, Tensor]]) -> None:
        self.encode = encode
        self.rows = torch.zeros(0, dtype=torch.int64)
        self.block: Mapping[str, Tensor] = {}

    def read(self, rows: Tensor) -> Mapping[str, Tensor]:
        """Features of some clips (b,)."""
        if not self.block or not torch.equal(rows, self.rows):
            self.rows, self.block = rows, self.encode(rows)
        return self.block


class EncodedRows:
    """(n, D) features of one branch that are more than memory should hold: encoded anew at each read.

    Args:
        blocks: of all branches.
        name: of the branch.
        rows: (n,) numbers of clips.
        num_features: D.
    """

    def __init__(self, blocks: EncodedBlocks, name: str, rows: Tensor, num_features: int) -> None:
        self.blocks, self.name, self.rows = blocks, name, rows
        self.shape = (len(rows), num_features)

    def __getitem__(self, rows: slice) -> Tensor:
        return self.blocks.read(self.rows[rows])[self.name]

    def only(self, kept: Tensor) -> EncodedRows:
        """Those of some clips, (n,) bool."""
        return EncodedRows(self.blocks, self.name, self.rows[kept.to(self.rows.device)], self.shape[1])


def collect_features(
    batches: Iterable[tuple[Tensor, Mapping[str, Tensor], Mapping[str, Tensor]]],
    num_features: Mapping[str, int],
    device: torch.device,
) -> FeatureTable:
    """Join (index, features, present) of batches; a rank without clips gives an empty table."""
    indices: list[Tensor] = [torch.zeros(0, dtype=torch.int64, device=device)]
    features = {name: _Blocks(size, device) for name, size in num_features.items()}
    present = {name: [torch.zeros(0, dtype=torch.bool, device=device)] for name in num_features}
    for index, batch_features, batch_present in batches:
        indices.append(index)
        for name in num_features:
            features[name].append(batch_features[name])
            present[name].append(batch_present[name])
    return FeatureTable(
        torch.cat(indices),
        {name: blocks.join() for name, blocks in features.items()},
        {name: torch.cat(parts) for name, parts in present.items()},
    )


class _Blocks:
    """Rows of many batches, in blocks so large that the system gets their memory back: small ones it does not.

    Args:
        num_features: D of a row.
        device: of the rows.
    """

    ROWS = 1 << 15

    def __init__(self, num_features: int, device: torch.device) -> None:
        self.num_features, self.device = num_features, device
        self.blocks: list[Tensor] = []
        self.num_rows = 0

    def append(self, rows: Tensor) -> None:
        """Copy rows (b, D)."""
        while len(rows):
            at = self.num_rows % self.ROWS
            if at == 0:
                self.blocks.append(torch.empty(self.ROWS, self.num_features, device=self.device))
            some = rows[: self.ROWS - at]
            self.blocks[-1][at : at + len(some)] = some
            self.num_rows += len(some)
            rows = rows[len(some) :]

    def join(self) -> Tensor:
        """(n, D) float32, all rows; the blocks go one by one."""
        whole = torch.empty(self.num_rows, self.num_features, device=self.device)
        for at in range(0, self.num_rows, self.ROWS):
            part = whole[at : at + self.ROWS]
            part.copy_(self.blocks.pop(0)[: len(part)])
        return whole
