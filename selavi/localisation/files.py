"""RUN/evidence/SPLIT-hH.parquet: evidence of clips, written and read; maps of another kind in RUN/KIND."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa

from selavi.guarded.json_file import as_written
from selavi.guarded.parquet import ParquetReader, parquet_writer, read_parquet, write_parquet
from selavi.localisation.evidence import MAPPED
from selavi.results.evidence import Evidence, EvidenceMap
from selavi.runs.folder import RunFolder

_ADVICE = "remove it: it is computed anew where it is needed"

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("times_s", pa.list_(pa.float64()), nullable=False),
    ]
)
"""One row a clip, and three columns a modality: its levels as bytes, their shape and their peak."""
for _name in MAPPED:
    SCHEMA = SCHEMA.append(pa.field(_name, pa.binary()))
    SCHEMA = SCHEMA.append(pa.field(f"{_name}_shape", pa.list_(pa.int32())))
    SCHEMA = SCHEMA.append(pa.field(f"{_name}_peak", pa.float32()))


def evidence_path(run_dir: Path, split: str, head: int, maps: str = "evidence") -> Path:
    """RUN/evidence/SPLIT-hH.parquet, or RUN/KIND/SPLIT-hH.parquet for maps of another kind."""
    return RunFolder(run_dir).evidence(split, head, maps)


def read_evidence(path: Path) -> Iterator[Evidence]:
    """Read a file one row group at a time."""
    with ParquetReader(path, advice=_ADVICE) as file:
        for batch in file.batches(SCHEMA.names, rows=EvidenceWriter.ROWS):
            for row in batch.to_pylist():
                with as_written(path, _ADVICE):
                    evidence = _from_row(row)
                yield evidence


def read_faded(path: Path) -> Iterator[Evidence]:
    """Read a file like read_evidence, but with evidence that is weak for its cluster looking weak.

    255 is then not each clip's most, but the middle one of the peaks of its cluster's clips, in picture and sound
    apart; what is stronger than that is shown as it is.  Clusters are not compared: evidence in one small place has a
    higher peak than evidence all over the picture.
    """
    peaks = read_parquet(path, ["cluster", *(f"{name}_peak" for name in MAPPED)], advice=_ADVICE).to_pydict()
    with as_written(path, _ADVICE):
        clusters = np.array(peaks["cluster"])
        middles = {name: _medians(np.array(peaks[f"{name}_peak"], float), clusters) for name in MAPPED}
    for evidence in read_evidence(path):
        maps = {name: _faded(one, middles[name][evidence.cluster]) for name, one in evidence.maps.items()}
        yield replace(evidence, maps=maps)


def _medians(peaks: np.ndarray, clusters: np.ndarray) -> dict[int, float]:
    """The middle peak of each cluster's clips, those left out that have none (NaN)."""
    rows = np.flatnonzero(~np.isnan(peaks))
    rows = rows[np.argsort(clusters[rows], kind="stable")]
    numbers, begins = np.unique(clusters[rows], return_index=True)
    groups = np.split(peaks[rows], begins[1:])
    return {int(number): float(np.median(group)) for number, group in zip(numbers, groups, strict=False)}


def _faded(shown: EvidenceMap, level: float) -> EvidenceMap:
    if shown.peak >= level:
        return shown
    return replace(shown, levels=np.rint(shown.levels * (shown.peak / level)).astype(np.uint8))


class EvidenceWriter:
    """Adds evidence to a file, which appears whole or not at all.

    What has been added survives a kill: every ROWS clips become a part beside the file, in the folder .NAME.parts, and
    the parts become the file when the block ends without an exception.  Evidence of an earlier state of the run
    (another key) is dropped; a clip that is added again replaces its row.

    Args:
        path: the file.
        key: names what the evidence was computed from, such as the run's checkpoint.
    """

    ROWS = 64

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.folder = path, path.with_name(f".{path.name}.parts")
        self.key, self.schema = key, SCHEMA.with_metadata({"selavi_key": key})
        self.sources = [source for source in self._sources() if self._is_current(source)]
        self.clusters: dict[str, int] = {}
        """The cluster of each clip that has evidence."""
        for source in self.sources:
            rows = read_parquet(source, ["id", "cluster"], advice=_ADVICE).to_pydict()
            self.clusters.update(zip(rows["id"], rows["cluster"], strict=True))
        self._pending: list[Evidence] = []

    def add(self, evidence: Evidence) -> None:
        self._pending.append(evidence)
        self.clusters[evidence.id] = evidence.cluster
        if len(self._pending) == self.ROWS:
            self._flush()

    def __enter__(self) -> "EvidenceWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._flush()
        if kind is None:
            self._merge()

    def _sources(self) -> list[Path]:
        """The file, then the parts from the oldest to the newest."""
        return [*([self.path] if self.path.exists() else []), *sorted(self.folder.glob("*.parquet"))]

    def _is_current(self, source: Path) -> bool:
        with ParquetReader(source, advice=_ADVICE) as file:
            schema = file.schema
        return schema.names == self.schema.names and (schema.metadata or {}).get(b"selavi_key") == self.key.encode()

    def _flush(self) -> None:
        if not self._pending:
            return
        numbers = [int(part.stem) for part in self.folder.glob("*.parquet")]
        part = self.folder / f"{max(numbers, default=-1) + 1:06d}.parquet"
        write_parquet(self._table([_to_row(evidence) for evidence in self._pending]), part)
        self.sources.append(part)
        self._pending = []

    def _merge(self) -> None:
        if self.sources != [self.path]:
            newest = {
                clip_id: number
                for number, source in enumerate(self.sources)
                for clip_id in read_parquet(source, ["id"], advice=_ADVICE)["id"].to_pylist()
            }
            with parquet_writer(self.path, self.schema) as writer:
                for number, source in enumerate(self.sources):
                    with ParquetReader(source, advice=_ADVICE) as file:
                        for batch in file.batches(rows=self.ROWS):
                            kept = [row for row in batch.to_pylist() if newest[row["id"]] == number]
                            if kept:
                                writer.write_table(self._table(kept))
        for part in self.folder.glob("*.parquet"):
            part.unlink()
        if self.folder.exists():
            self.folder.rmdir()

    def _table(self, rows: list[dict[str, object]]) -> pa.Table:
        return pa.Table.from_pylist(rows, schema=self.schema)


def _to_row(evidence: Evidence) -> dict[str, object]:
    row: dict[str, object] = {name: getattr(evidence, name) for name in ("id", "cluster", "start_s")}
    row["times_s"] = evidence.times_s.tolist()
    for name, shown in evidence.maps.items():
        row[name] = shown.levels.tobytes()
        row[f"{name}_shape"] = list(shown.levels.shape)
        row[f"{name}_peak"] = shown.peak
    return row


def _from_row(row: Mapping[str, Any]) -> Evidence:
    maps = {
        name: EvidenceMap(np.frombuffer(row[name], np.uint8).reshape(row[f"{name}_shape"]), row[f"{name}_peak"])
        for name in MAPPED
        if row[name] is not None
    }
    return Evidence(row["id"], row["cluster"], row["start_s"], np.array(row["times_s"]), maps)
