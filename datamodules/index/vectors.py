"""The manifest of a run that reads no recordings: a row for each id of its files of vectors."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.layout import METADATA_KEY, metadata_of, read_layout
from selavi.arrays import Vectors
from selavi.runs.manifest import LEADS_OUT, SCHEMA


def list_vectors(opened: Mapping[str, Vectors], layout: str) -> pa.Table:
    """Ids of all files, each once, in ascending order; facts of recordings are those of one without any stream.

    Ids are read as paths: test/dog/7 is in split test with label dog where data.layout says so.

    Args:
        opened: the vectors of each modality.
        layout: a Layout; see datamodules.index.layout.read_layout.
    """
    ids = pc.unique(pa.chunked_array([vectors.ids for vectors in opened.values()], pa.large_string()))
    ids = ids.take(pc.array_sort_indices(ids)).cast(pa.string())
    folders = pc.replace_substring_regex(ids, r"[^/]*$", "").dictionary_encode()
    names = folders.dictionary.to_pylist()
    counts = Counter(dict(zip(names, pc.value_counts(folders).field("counts").to_pylist(), strict=True)))
    reading = read_layout(counts, layout)
    places = [reading.place(name) for name in names]
    num_rows = len(ids)
    outside = pc.match_substring_regex(ids, LEADS_OUT)
    numbers = pa.array([f"vector {row}" for row in range(num_rows)]) if pc.any(outside).as_py() else ids
    columns = {
        "id": ids,
        "path": pc.if_else(outside, numbers, ids),
        "split": pa.array([split for split, _ in places], pa.string()).take(folders.indices),
        "label": pa.array([label for _, label in places], pa.string()).take(folders.indices),
        "start_s": pa.repeat(0.0, num_rows),
        "duration_s": pa.repeat(0.0, num_rows),
        "width": pa.repeat(pa.scalar(0, pa.int32()), num_rows),
        "height": pa.repeat(pa.scalar(0, pa.int32()), num_rows),
        "audio_state": pa.repeat("absent", num_rows),
        "audio_s": pa.repeat(0.0, num_rows),
        "bytes": pa.repeat(0, num_rows),
        "mtime_ns": pa.repeat(0, num_rows),
        "status": pa.repeat("ok", num_rows),
    }
    root = Path(os.path.commonpath([vectors.path.absolute().parent for vectors in opened.values()]))
    filled = {entry.name: columns.get(entry.name, pa.nulls(num_rows, entry.type)) for entry in SCHEMA}
    metadata = {METADATA_KEY: metadata_of(reading), b"root": str(root).encode()}
    return pa.table(filled, schema=SCHEMA).replace_schema_metadata(metadata)
