"""Pieces of one recording that lie side by side, decoded together: a pass reads a long file once, from start to end.

pieces       [0,10)[10,20)...[50,60)[60,70)...[110,120)    [3000,3010)
neighbours    0     0         0      1         1             2          one decoding each
"""

from collections import OrderedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.stores.files import FileReader
from datamodules.stores.reader import cut_window
from selavi.media import MediaError, Recording, decode_recording
from selavi.modalities import MAIN, MIXED, Request, Streams, Window

TOGETHER_S = 300.0
"""Most seconds of a recording that are decoded together, ..."""
_FRAMES, _PIXELS = 1800, 1280 * 720
"""... and most frames, of so many pixels; of larger ones fewer."""
_GAP_S = 5.0
"""To seek is as fast as to decode what lies between two pieces, if that is longer."""
_KEPT = 2
"""Decoded neighbours that a reader keeps: those that two batches read in turn."""


def has_pieces(rows: pa.Table) -> bool:
    """Whether some rows of a manifest are pieces of recordings."""
    return rows["end_s"].null_count < len(rows)


def group_neighbours(rows: pa.Table) -> np.ndarray:
    """(R,) ascending numbers of groups: rows that follow each other and are decoded together have the same one."""
    start_s, end_s = _spans(rows)
    paths = rows["path"].combine_chunks().dictionary_encode().indices.to_numpy()
    pixels = pc.fill_null(rows["width"], 0).to_numpy().astype(float) * pc.fill_null(rows["height"], 0).to_numpy()
    fps = pc.fill_null(rows["fps"], 0.0).to_numpy()
    frames = _FRAMES * np.minimum(1.0, _PIXELS / np.maximum(pixels, 1.0))
    together_s = np.minimum(TOGETHER_S, frames / np.maximum(fps, 1e-3))
    part = np.floor(start_s / together_s)
    is_new = np.ones(len(rows), bool)
    gap_s = start_s[1:] - end_s[:-1]
    is_new[1:] = (np.diff(paths) != 0) | (np.diff(part) != 0) | (np.diff(start_s) < 0) | ~(np.abs(gap_s) < np.inf)
    is_new[1:] |= gap_s >= _GAP_S
    return np.cumsum(is_new) - 1


def _spans(rows: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """(R,) begins and (R,) ends in seconds of their recordings; a whole one ends at infinity."""
    return rows["start_s"].to_numpy(), pc.fill_null(rows["end_s"], float("inf")).to_numpy()


class NeighbourReader:
    """A ClipReader for passes in the order of the rows, which are pieces of recordings, wholly or in part.

    What it gives for a row depends on the table alone, not on what was read before.

    Args:
        rows: rows of a manifest.
        timeout_s: as of FileReader.
    """

    def __init__(self, rows: pa.Table, timeout_s: float) -> None:
        self.files = FileReader(rows, timeout_s)
        self.groups = group_neighbours(rows)
        self.start_s, end_s = _spans(rows)
        self.first = np.flatnonzero(np.diff(self.groups, prepend=-1))  # row of each group
        self.num_rows = np.diff(self.first, append=len(rows))
        self.end_s = np.maximum.reduceat(end_s, self.first) if len(rows) else end_s
        self._kept: OrderedDict[tuple[int, Request], Recording | None] = OrderedDict()

    def read(self, row: int, window: Window, request: Request) -> Streams:
        """Cut a window out of what is decoded together; see ClipReader.

        Raises:
            SoundError: as FileReader.
            MediaError: as FileReader.
        """
        group = self.groups[row]
        if self.num_rows[group] == 1 or (request.channel, request.stream) != (MIXED, MAIN):
            return self.files.read(row, window, request)
        recording = self._decoded(int(group), request)
        if recording is None or recording.audio_fault is not None:
            return self.files.read(row, window, request)
        start_s = self.start_s[row] - self.start_s[self.first[group]] + window.start_s
        return cut_window(recording, start_s, window, request)

    def _decoded(self, group: int, request: Request) -> Recording | None:
        """What a group's rows are cut from; None where that cannot be decoded."""
        key = group, request
        if key not in self._kept:
            self._kept[key] = self._decode(group, request)
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]

    def _decode(self, group: int, request: Request) -> Recording | None:
        row = int(self.first[group])
        path = self.files.path(row)
        try:
            self.files.require_unchanged(row)
            return decode_recording(
                path,
                size=request.size if request.num_frames else 0,
                sample_rate=request.sample_rate,
                start_s=float(self.start_s[row]),
                end_s=float(self.end_s[group]),
                deadline_s=self.files.timeout_s,
            )
        except MediaError:
            return None
