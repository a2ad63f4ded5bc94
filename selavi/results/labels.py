"""RUN/labels/SPLIT.parquet: the cluster of each clip under each head, and how sure it is."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selavi.errors import UsageError
from selavi.guarded.json_file import as_written
from selavi.guarded.parquet import ParquetReader, parquet_writer
from selavi.ids import ClipIds
from selavi.memory import memory_in_file
from selavi.runs.folder import RunFolder
from selavi.wording import command

if TYPE_CHECKING:
    from torch import Tensor

LABEL_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("head", pa.int32()),
        ("cluster", pa.int32()),
        ("confidence", pa.float32()),
        ("margin", pa.float32()),
        ("entropy", pa.float32()),
        ("modality_agreement", pa.float32()),
    ]
)
"""RUN/labels/SPLIT.parquet: a row for each head of each clip."""

_STATISTICS = ("confidence", "margin", "entropy", "modality_agreement")
_KEYS = ("id", "head", "cluster")
_INCOMPLETE = "expected a row for each head of each clip, in order"
_AGAIN = "make the labels again: measure this split, or train with resume=auto without status.json"
_ROWS_AT_ONCE = 1 << 17
"""Rows of a block, which is read in two parts: with more, each part would come with the ids of many others."""


@dataclass(frozen=True)
class SplitLabels:
    """The clusters of N clips under H heads, and how sure they are."""

    ids: pa.Array
    """(N,) large_string, each once."""
    clusters: np.ndarray
    """(N, H) int32."""
    statistics: Mapping[str, np.ndarray]
    """confidence, margin, entropy and modality_agreement, (N, H) float32 each, as far as they are there and were asked
    for; what is unknown is nan.  Those of many clips lie in a file, if the run's folder can have one."""
    probe: np.ndarray | None
    """(H,) probe scores of the heads, of training clips; None in what earlier versions wrote."""

    def of_head(self, head: int) -> dict[str, np.ndarray]:
        """The clusters of one head and all statistics, (N,) each.

        Raises:
            UsageError: there is no such head, or a statistic is not there.
        """
        _require_head(head, self.clusters.shape[1])
        missing = [name for name in _STATISTICS if name not in self.statistics]
        if missing:
            raise UsageError(f"the labels lack the columns {', '.join(missing)}: {_AGAIN}")
        return {"cluster": self.clusters[:, head]} | {name: self.statistics[name][:, head] for name in _STATISTICS}

    def cluster_of(self, head: int) -> dict[str, int]:
        """Id of each clip -> its cluster under a head.

        Raises:
            UsageError: there is no such head.
        """
        _require_head(head, self.clusters.shape[1])
        return dict(zip(self.ids.to_pylist(), self.clusters[:, head].tolist(), strict=True))


def write_labels(
    run_dir: Path,
    split: str,
    ids: Sequence[str],
    labels: "Tensor",
    statistics: Mapping[str, "Tensor"],
    probe: "Tensor | None" = None,
) -> Path:
    """Write RUN/labels/SPLIT.parquet: one row for each clip and head; what is unknown (nan) is null.

    Args:
        run_dir: the run's folder.
        split: of the clips.
        ids: of N clips.
        labels: (N, H) int.
        statistics: confidence, margin, entropy and modality_agreement, (N, H) float each.
        probe: (H,) scores of the heads, of the training clips; kept in the file's metadata.
    """
    num_clips, num_heads = labels.shape
    texts, path = ClipIds(ids), RunFolder(run_dir).labels(split)
    metadata = None if probe is None else {"probe": json.dumps(probe.tolist())}
    schema = LABEL_SCHEMA.with_metadata(metadata)
    at_once = max(1, _ROWS_AT_ONCE // max(1, num_heads))
    # Numbers of which hardly two are equal are written as they are: to look for equal ones takes most of the time.
    with parquet_writer(path, schema, use_dictionary=["id", "head", "cluster"]) as writer:
        for first in range(0, max(1, num_clips), at_once):
            some = slice(first, min(first + at_once, num_clips))
            columns = _columns(texts[some], labels[some], {name: statistics[name][some] for name in _STATISTICS})
            writer.write_table(pa.table(columns, schema=schema))
    return path


def _columns(ids: ClipIds, labels: "Tensor", statistics: Mapping[str, "Tensor"]) -> dict[str, pa.Array]:
    """The columns of LABEL_SCHEMA for n clips: labels (n, H), statistics (n, H) each."""
    num_clips, num_heads = labels.shape
    rows = pa.array(np.repeat(np.arange(num_clips), num_heads))
    texts = ids.array.take(rows)
    return {
        "id": texts.cast(pa.string()),
        "head": pa.array(np.tile(np.arange(num_heads, dtype=np.int32), num_clips)),
        "cluster": pa.array(labels.flatten().numpy(), pa.int32()),
        **{
            name: pa.array(values.flatten().numpy(), pa.float32(), from_pandas=True)
            for name, values in statistics.items()
        },
    }


def read_labels(run_dir: Path, split: str, *, with_statistics: bool = False) -> SplitLabels:
    """Read RUN/labels/SPLIT.parquet.

    Args:
        run_dir: the run's folder.
        split: of the clips.
        with_statistics: also how sure the clusters are, which takes four times the memory of these.

    Raises:
        UsageError: there is none, and the message says how to make it; or it is damaged.
    """
    with _opened(run_dir, split) as file:
        return _read(file, _STATISTICS if with_statistics else (), RunFolder(run_dir).labels(split).parent)


def count_heads(run_dir: Path, split: str) -> int:
    """H of RUN/labels/SPLIT.parquet.

    Raises:
        UsageError: as read_labels.
    """
    with _opened(run_dir, split) as file:
        return _count_heads(file)


def blocks_of_head(run_dir: Path, split: str, head: int) -> Iterator[tuple[pa.Array, np.ndarray]]:
    """Yield ids (n,) large_string and clusters (n,) int32 under one head, those of read_labels together.

    Whether a clip comes twice is not looked at.

    Raises:
        UsageError: as read_labels, when the block comes that is at fault; or there is no such head.
    """
    with _opened(run_dir, split) as file:
        num_heads = _count_heads(file)
        _require_head(head, num_heads)
        for heads, columns in _blocks(file, _KEYS, num_heads):
            is_of_head = heads == head
            ids = columns["id"].filter(pa.array(is_of_head)).cast(pa.large_string())
            yield ids, columns["cluster"].to_numpy()[is_of_head]


def _require_head(head: int, num_heads: int) -> None:
    if not 0 <= head < num_heads:
        raise UsageError(f"expected one of the heads 0 to {num_heads - 1}, got {head}")


@contextmanager
def _opened(run_dir: Path, split: str) -> Iterator[ParquetReader]:
    path = RunFolder(run_dir).labels(split)
    if not path.exists():
        splits = ", ".join(sorted(file.stem for file in path.parent.glob("*.parquet"))) or "none"
        raise UsageError(
            f"{run_dir} has no labels of split {split!r} (found: {splits}); labels of the training clips "
            f"appear when training ends, others with {command('evaluate', run_dir, '--split', split)}"
        )
    with as_written(path, _AGAIN), ParquetReader(path, advice=_AGAIN) as file:
        yield file


def _count_heads(file: ParquetReader) -> int:
    num_heads = 1 + max((pc.max(batch["head"]).as_py() or 0 for batch in file.batches(["head"])), default=0)
    if not file.num_rows or num_heads < 1 or file.num_rows % num_heads:
        raise ValueError(_INCOMPLETE)
    return num_heads


def _blocks(
    file: ParquetReader, names: Sequence[str], num_heads: int
) -> Iterator[tuple[np.ndarray, dict[str, pa.Array]]]:
    """Yield the head of each row of a block, (n,), and its columns, all heads of a clip one after the other."""
    at, last = 0, None
    for batch in file.batches(names):
        columns = {name: batch[name].cast(LABEL_SCHEMA.field(name).type) for name in names}
        for name in _KEYS:
            if columns[name].null_count:
                raise ValueError(f"rows without {name}")
        texts = columns["id"]
        heads = np.arange(at, at + len(batch)) % num_heads
        if (columns["head"].to_numpy() != heads).any():
            raise ValueError(_INCOMPLETE)
        repeats = pc.equal(texts[1:], texts[:-1]).to_numpy(zero_copy_only=False)
        if (np.append(texts[0] == last, repeats) != (heads > 0)).any():
            raise ValueError("expected all heads to have the same clips, each of them once")
        yield heads, columns
        at, last = at + len(batch), texts[-1]


def _read(file: ParquetReader, statistics: Sequence[str], folder: Path) -> SplitLabels:
    """Take the labels out of a file, block by block: texts of a clip's id come once, and not for each head."""
    names = [*_KEYS, *(name for name in statistics if name in file.schema.names)]
    num_heads = _count_heads(file)
    numbers = {name: _room(file.num_rows, folder) for name in names if name in statistics}
    numbers["cluster"] = np.empty(file.num_rows, np.int32)
    ids, at = [], 0
    for heads, columns in _blocks(file, names, num_heads):
        rows = slice(at, at + len(heads))
        ids.append(columns["id"].filter(pa.array(heads == 0)).cast(pa.large_string()))
        for name, values in numbers.items():
            values[rows] = columns[name].to_numpy(zero_copy_only=False)
        at = rows.stop
    clips = pa.concat_arrays(ids)
    in_order = pc.all(pc.less(clips[:-1], clips[1:]), min_count=0).as_py()  # as a scan gives them
    if not in_order and pc.count_distinct(clips).as_py() < len(clips):
        raise ValueError("expected each clip once")
    of_heads = {name: values.reshape(-1, num_heads) for name, values in numbers.items()}
    probe = (file.schema.metadata or {}).get(b"probe")
    kept = None if probe is None else np.array(json.loads(probe), dtype=np.float64)
    return SplitLabels(clips, of_heads.pop("cluster"), of_heads, kept)


def _room(num_rows: int, folder: Path) -> np.ndarray:
    """Memory for a statistic of each row, (R,) float32."""
    in_file = memory_in_file(4 * num_rows, folder)
    return np.empty(num_rows, np.float32) if in_file is None else np.frombuffer(in_file, np.float32)


def agreement_of_modalities(run_dir: Path, split: str) -> np.ndarray | None:
    """(N, H) modality_agreement of RUN/labels/SPLIT.parquet, NaN for a clip with one modality; None: not there."""
    if not RunFolder(run_dir).labels(split).exists():
        return None
    return read_labels(run_dir, split, with_statistics=True).statistics.get("modality_agreement")
