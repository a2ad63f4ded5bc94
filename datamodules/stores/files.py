"""Clips decoded from media files, each when it is asked for."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from selavi.media import decode_clip
from selavi.modalities import Request, Streams, Window
from selavi.runs.manifest import file_state, media_root, require_unchanged


class FileReader:
    """Clips decoded from media files, each when it is asked for.

    Args:
        rows: rows of a manifest.
        timeout_s: a clip that takes longer to decode fails.
    """

    def __init__(self, rows: pa.Table, timeout_s: float) -> None:
        self.root, self.timeout_s = media_root(rows), timeout_s
        self.paths = rows["path"].combine_chunks()
        self.starts_s = rows["start_s"].to_numpy()
        self.bytes, self.mtimes_ns = (pc.fill_null(rows[name], -1).to_numpy() for name in ("bytes", "mtime_ns"))

    def path(self, row: int) -> Path:
        """The recording of a row."""
        return self.root / self.paths[row].as_py()

    def require_unchanged(self, row: int) -> None:
        """Check that the file of a row is still the one that was scanned.

        Raises:
            MediaError: it is not.
        """
        require_unchanged(self.path(row), int(self.bytes[row]), int(self.mtimes_ns[row]))

    def is_there(self, row: int) -> bool:
        """Whether the file of a row is there, and still the one that was scanned."""
        return not file_state(self.path(row), int(self.bytes[row]), int(self.mtimes_ns[row]))

    def read(self, row: int, window: Window, request: Request) -> Streams:
        """Decode a window; see ClipReader.

        Raises:
            MediaError: also where the file is no longer the one that was scanned.
        """
        self.require_unchanged(row)
        frames, waveform = decode_clip(
            self.path(row),
            self.starts_s[row] + window.start_s,
            window.clip_s,
            num_frames=request.num_frames,
            size=request.size,
            offset=window.offset,
            sample_rate=request.sample_rate,
            channel=request.channel,
            stream=request.stream,
            deadline_s=self.timeout_s,
        )
        return Streams(frames if request.num_frames else None, waveform)
