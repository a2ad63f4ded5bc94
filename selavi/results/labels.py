"""RUN/labels/SPLIT.parquet: the cluster of each clip under each head, and how sure it is."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
from torch import Tensor

from selavi.guarded.parquet import write_parquet
from selavi.results.cluster_table import LABEL_SCHEMA as LABEL_SCHEMA
from selavi.runs.folder import RunFolder


def write_labels(
    run_dir: Path,
    split: str,
    ids: list[str],
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
    columns = {
        "id": pa.array(ids, pa.string()).take(pa.array(np.repeat(np.arange(num_clips), num_heads))),
        "head": pa.array(np.tile(np.arange(num_heads, dtype=np.int32), num_clips)),
        "cluster": pa.array(labels.flatten().numpy(), pa.int32()),
    }
    for name in ("confidence", "margin", "entropy", "modality_agreement"):
        values = statistics[name].flatten().numpy()
        columns[name] = pa.array(values, pa.float32(), from_pandas=True)
    path = RunFolder(run_dir).labels(split)
    metadata = None if probe is None else {"probe": json.dumps(probe.tolist())}
    write_parquet(pa.table(columns, schema=LABEL_SCHEMA.with_metadata(metadata)), path)
    return path
