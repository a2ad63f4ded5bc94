"""One view of one clip, decoded; a file that fails becomes a clip without any modality."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import Dataset

from datamodules.index.manifest import media_root, require_unchanged
from datamodules.loading.sampling import ClipSpan, ViewKey, Window, even_span, random_span, window_span
from selavi.batch import DecodedClip
from selavi.config import Config
from selavi.media import MediaError, SoundError, decode_clip


class ClipReader(Protocol):
    """Where clips come from: files, recordings decoded ahead, or shards.  Addressed by the rows of one table."""

    def read(
        self, row: int, start_s: float, clip_s: float, *, num_frames: int, size: int, offset: float, sample_rate: int
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Read the window [start_s, start_s + clip_s) of the recording in a row.

        Args:
            row: of the table that the reader was made for.
            start_s: seconds from the start of the file.
            clip_s: length of the window in seconds.
            num_frames: frames wanted, evenly spaced from the start of the window; 0 for none.
            size: side of the square frames.
            offset: where the square lies on the long side, in [0, 1].
            sample_rate: of the sound, in samples a second; 0 for none.

        Returns:
            Frames (num_frames, size, size, 3) uint8, None where none are wanted; waveform
            (round(clip_s * sample_rate),) int16, None where none is wanted or the window has no sound.

        Raises:
            MediaError: the recording cannot be read.
        """
        ...


@dataclass(frozen=True)
class Facts:
    """What can be read of a recording."""

    duration_s: float
    """Windows lie in [0, duration_s)."""
    pictured: bool
    audible: bool


class ProbingReader(ClipReader, Protocol):
    """A ClipReader of recordings that need not have been probed before."""

    def facts(self, row: int) -> Facts:
        """Probe the recording in a row.

        Raises:
            MediaError: it cannot be read, or nothing of it can be used.
        """
        ...


class FileReader:
    """Clips decoded from media files, each when it is asked for.

    Args:
        rows: rows of a manifest.
        timeout_s: a clip that takes longer to decode fails.
    """

    def __init__(self, rows: pa.Table, timeout_s: float) -> None:
        self.root, self.timeout_s = media_root(rows), timeout_s
        self.paths = rows["path"].combine_chunks()
        self.bytes, self.mtimes_ns = rows["bytes"].to_numpy(), rows["mtime_ns"].to_numpy()

    def read(
        self, row: int, start_s: float, clip_s: float, *, num_frames: int, size: int, offset: float, sample_rate: int
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Decode one window; see ClipReader.

        Raises:
            MediaError: also where the file is no longer the one that was scanned.
        """
        path = self.root / self.paths[row].as_py()
        require_unchanged(path, int(self.bytes[row]), int(self.mtimes_ns[row]))
        frames, waveform = decode_clip(
            path,
            start_s,
            clip_s,
            num_frames=num_frames,
            size=size,
            offset=offset,
            sample_rate=sample_rate,
            deadline_s=self.timeout_s,
        )
        return frames if num_frames else None, waveform


class ClipDataset(Dataset[DecodedClip]):
    """Clips of some rows of a manifest; addressed by ViewKey, so it holds no state and any worker gives the same.

    Args:
        rows: rows of a manifest.
        config: of the run.
        reader: reads the recordings of these rows; by default their files.
        num_views: how many evenly spaced windows the stream `eval` has.
        num_crops: how many squares of each of these windows it has.
        windows: of each row, for the stream `window`.
    """

    def __init__(
        self,
        rows: pa.Table,
        config: Config,
        reader: ClipReader | None = None,
        num_views: int = 1,
        num_crops: int = 1,
        windows: Sequence[Sequence[Window]] = (),
    ) -> None:
        self.config, self.num_views, self.num_crops, self.windows = config, num_views, num_crops, windows
        self.reader = FileReader(rows, config.data.timeout_s) if reader is None else reader
        # Columns, never a Python object a row: a million of those take seconds and gigabytes in every process.
        self.ids = rows["id"].combine_chunks()
        self.durations_s = rows["duration_s"].to_numpy()
        self.audible = pc.equal(rows["audio_state"], "ok").to_numpy()
        if config.data.audio_policy == "require" and "audio" in config.modalities:
            self.durations_s = np.minimum(self.durations_s, rows["audio_s"].to_numpy())  # every window has sound

    def __len__(self) -> int:
        return len(self.ids)

    def id_of(self, row: int) -> str:
        """The clip's id."""
        clip_id: str = self.ids[row].as_py()
        return clip_id

    def __getitem__(self, key: ViewKey) -> DecodedClip:
        config, row = self.config, key.row
        span, wanted = self._span(key)
        audible = "audio" in wanted and bool(self.audible[row])
        clip = read_view(self.reader, row, span, config, pictured="video" in wanted, audible=audible)
        clip.present.update({name: False for name in clip.present if name not in wanted})
        return clip

    def _span(self, key: ViewKey) -> tuple[ClipSpan, Sequence[str]]:
        """The window, and the modalities to read there."""
        config, duration_s, clip_s = self.config, float(self.durations_s[key.row]), self.config.data.clip_s
        if key.stream == "window":
            window = self.windows[key.row][key.epoch]
            return window_span(window.start_s, clip_s), window.modalities
        if key.stream == "eval":
            return even_span(key.epoch, self.num_views, duration_s, clip_s, self.num_crops), config.modalities
        return random_span(config.seed, key, self.ids[key.row].as_py(), duration_s, clip_s), config.modalities


def read_view(
    reader: ClipReader, row: int, span: ClipSpan, config: Config, *, pictured: bool = True, audible: bool = True
) -> DecodedClip:
    """Read one view of the recording in a row; where that fails, it is a clip without any modality.

    Where the sound alone fails, the picture stays, unless data.audio_policy is `require`.

    Args:
        reader: of a table that has this row.
        row: of the table; becomes the clip's index.
        span: which window and square.
        config: of the run.
        pictured: whether the recording has a picture to be read.
        audible: whether it has a sound to be read.
    """
    size = config.video.decode_size
    num_frames = config.video.num_frames if pictured and "video" in config.modalities else 0
    sample_rate = config.audio.sample_rate if audible and "audio" in config.modalities else 0
    if not num_frames and not sample_rate:
        return as_clip(row, span, config, None, None)
    try:
        frames, waveform = reader.read(
            row,
            span.start_s,
            span.clip_s,
            num_frames=num_frames,
            size=size,
            offset=span.offset,
            sample_rate=sample_rate,
        )
    except SoundError as fault:
        frames = None if config.data.audio_policy == "require" else fault.frames
        return as_clip(row, span, config, frames, None, f"{fault.reason}: {fault.detail}")
    except MediaError as fault:
        return as_clip(row, span, config, None, None, f"{fault.reason}: {fault.detail}")
    return as_clip(row, span, config, frames, waveform)


def as_clip(
    row: int,
    span: ClipSpan,
    config: Config,
    frames: np.ndarray | None,
    waveform: np.ndarray | None,
    error: str | None = None,
) -> DecodedClip:
    """Tensors of one view, zeros for what is missing.

    Args:
        row: the clip's index.
        span: of the view.
        config: of the run; with data.audio_policy `zeros`, missing sound counts as present.
        frames: (T, size, size, 3) uint8.
        waveform: (S,) int16.
        error: why something of it could not be decoded.
    """
    size, clip_s = config.video.decode_size, config.data.clip_s
    decoded: dict[str, torch.Tensor | None] = {"video": None, "audio": None}
    present = {}
    if "video" in config.modalities:
        present["video"] = frames is not None
        blank = np.zeros((config.video.num_frames, size, size, 3), np.uint8) if frames is None else frames
        decoded["video"] = torch.from_numpy(blank)
    if "audio" in config.modalities:
        zeros_count = config.data.audio_policy == "zeros" and error is None
        present["audio"] = waveform is not None or zeros_count
        silence = np.zeros(round(clip_s * config.audio.sample_rate), np.int16) if waveform is None else waveform
        decoded["audio"] = torch.from_numpy(silence)
    draws = torch.from_numpy(span.draws.astype(np.float32))
    return DecodedClip(row, decoded["video"], decoded["audio"], present, draws, error)
