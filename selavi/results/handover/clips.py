"""What is handed over: the clips of one head that were not rejected, their classes, media and features."""

import math
import os
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selavi.errors import UsageError
from selavi.filesystem import Enclosure
from selavi.runs.manifest import file_state

BLOCK = 100_000
"""Rows that are in memory at once as Python objects or float rows."""

_FAULTS = {
    "outside": "{count} clips lie outside of the media folder {root}, for example {example!r}: nothing from there is "
    "handed over; move the files in",
    "changed": "{count} media files in {root} are not those that were scanned, for example {example!r} (written to "
    "since, or the run comes from elsewhere): nothing of them is handed over; if they are the clips, say "
    "data.root=FOLDER with the folder that they are in",
    "missing": "{count} media files are not in {root}, for example {example!r}: bring them back, or say data.root=NEW "
    "where they have moved",
}
_CONTROL = ("Cc", "Cs", "Zl", "Zp")


@dataclass(frozen=True)
class HandedClips:
    """N clips of one head.

    Attributes:
        table: (N rows) of a cluster table, clusters 0 and above.
        media_root: the folder that paths start from; None: there are no media.
        scanned: size and time of change of each clip's file by id, as selavi.runs.manifest.require_unchanged takes
            them; None: any file below media_root will do.
        durations_s: seconds by id, where known.
        features: (M, D) by name, with the M ids; M may be above N.
        num_rejected: rows that are left out.
    """

    table: pa.Table
    media_root: Path | None
    scanned: Mapping[str, tuple[int, int]] | None
    durations_s: Mapping[str, float]
    features: Mapping[str, tuple[Any, np.ndarray]]
    num_rejected: int

    def __len__(self) -> int:
        return self.table.num_rows

    @cached_property
    def class_names(self) -> dict[int, str]:
        """The class of each cluster: its name, or `cluster 012`."""
        pairs = self.table.select(["cluster", "name"]).group_by("cluster").aggregate([("name", "min")])
        return name_classes(dict(zip(pairs["cluster"].to_pylist(), pairs["name_min"].to_pylist(), strict=True)))

    @cached_property
    def media(self) -> list[str]:
        """The media file of each clip, below the real path of media_root.

        Raises:
            UsageError: there are none at all, one is not there, lies outside of media_root, by its path or by a link,
                or is not the file that was scanned.
        """
        if self.media_root is None:
            raise UsageError("the clips are vectors, without media that could be handed over")
        enclosure = Enclosure(self.media_root)
        media: list[str] = []
        faults: dict[str, list[str]] = {"outside": [], "changed": [], "missing": []}
        for clip_id, name in zip(self.table["id"].to_pylist(), self.table["path"].to_pylist(), strict=True):
            path = enclosure.path(name)
            media.append(os.path.join(enclosure.real_root, os.path.relpath(path, enclosure.root)))
            if fault := self._fault_of(enclosure, path, clip_id):
                faults[fault].append(name)
        for fault, names in faults.items():
            if names:
                count = f"{len(names)} of {len(media)}"
                raise UsageError(_FAULTS[fault].format(count=count, root=enclosure.root, example=names[0]))
        return media

    def _fault_of(self, enclosure: Enclosure, path: str, clip_id: str) -> str:
        if not enclosure.names(path) or enclosure.leads_out(path):
            return "outside"
        if self.scanned is None:
            return "" if os.path.isfile(path) else "missing"
        return file_state(path, *self.scanned[clip_id])

    def rows(self) -> Iterator[dict[str, Any]]:
        """Each clip's row, with `class` and `duration_s` (None: unknown); numbers that are not finite are None."""
        for batch in self.table.to_batches(max_chunksize=BLOCK):
            for row in batch.to_pylist():
                for name, value in row.items():
                    if isinstance(value, float):
                        row[name] = round(value, 6) if math.isfinite(value) else None
                row["class"] = self.class_names[row["cluster"]]
                row["duration_s"] = self.durations_s.get(row["id"])
                yield row

    def columns(self) -> pa.Table:
        """The table with the columns `class` and `duration_s` behind `name`."""
        clusters = sorted(self.class_names)
        places = pa.array(np.searchsorted(clusters, self.table["cluster"].to_numpy()))
        classes = pa.array([self.class_names[cluster] for cluster in clusters], pa.string()).take(places)
        durations = [self.durations_s.get(clip_id) for clip_id in self.table["id"].to_pylist()]
        place = self.table.column_names.index("name") + 1
        table = self.table.add_column(place, "class", classes)
        return table.add_column(place + 1, "duration_s", pa.array(durations, pa.float64()))

    def feature_blocks(self, name: str) -> Iterator[np.ndarray]:
        """The clips' rows of features in float32, up to BLOCK at a time.

        Raises:
            UsageError: a clip has none.
        """
        ids, values = self.features[name]
        places = pc.index_in(self.table["id"], value_set=pa.array(ids, pa.string()))
        if places.null_count:
            first = self.table["id"].filter(pc.is_null(places))[0].as_py()
            raise UsageError(
                f"{places.null_count} of {len(self)} clips have no {name} features, for example {first!r}: "
                "features and table must be of the same run and split"
            )
        rows = places.to_numpy()
        for start in range(0, len(rows), BLOCK):
            yield np.asarray(values[rows[start : start + BLOCK]], np.float32)


def name_classes(names: Mapping[int, str | None], max_length: int = 1000) -> dict[int, str]:
    """A class for each cluster: its name on one line, without control characters; `cluster 012` without a name.

    Clusters of one name are one class.  Different names stay different, also where they look alike once they are
    cleaned and cut to `max_length` characters: the later one gets a number.  A name of blanks is none.
    """
    classes: dict[int, str] = {}
    taken: dict[str, str | int] = {}
    for cluster in sorted(names, key=lambda cluster: (not names[cluster], cluster)):  # names people gave come first
        name = names[cluster] or ""
        plain = "".join(" " if _is_control(letter) else letter for letter in name)
        text = " ".join(plain.split())[:max_length].strip()
        owner: str | int = name if text else cluster
        text = text or f"cluster {cluster:03d}"
        number, base = 1, text
        while taken.setdefault(text, owner) != owner:
            number += 1
            ending = f" ({number})"
            text = base[: max_length - len(ending)] + ending
        classes[cluster] = text
    return classes


def _is_control(letter: str) -> bool:
    return unicodedata.category(letter) in _CONTROL or ord(letter) & 0xFFFE == 0xFFFE
