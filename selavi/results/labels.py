"""RUN/labels/SPLIT.parquet: the cluster of each clip under each head, and how sure it is."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from torch import Tensor

from selavi.guarded.parquet import parquet_writer
from selavi.ids import ClipIds
from selavi.results.cluster_table import LABEL_SCHEMA as LABEL_SCHEMA
from selavi.runs.folder import RunFolder

_STATISTICS = ("confidence", "margin", "entropy", "modality_agreement")
_ROWS_AT_ONCE = 1 << 17
"""Rows of a block, which is read in two parts: with more, each part would come with the ids of many others."""


def write_labels(
    run_dir: Path,
    split: str,
    ids: Sequence[str],
    labels: Tensor,
    statistics: Mapping[str, Tensor],
    probe: Tensor | None = None,
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


def _columns(ids: ClipIds, labels: Tensor, statistics: Mapping[str, Tensor]) -> dict[str, pa.Array]:
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
