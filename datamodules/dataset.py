"""One view of one clip, decoded; a file that fails becomes a clip without any modality."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from datamodules.cache import DecodedCache
from datamodules.manifest import media_root
from datamodules.sampling import ViewKey, even_span, random_span
from selavi.batch import DecodedClip
from selavi.config import Config
from selavi.media import MediaError, crop_square, cut_waveform, decode_clip, frame_times, latest_frames


@dataclass
class ClipDataset(Dataset[DecodedClip]):
    """Clips of the rows of a manifest; addressed by ViewKey, so it holds no state and any worker gives the same."""

    rows: pa.Table
    config: Config
    cache: DecodedCache | None = None
    num_views: int = 1

    def __post_init__(self) -> None:
        self.root = media_root(self.rows)
        self.ids = self.rows["id"].to_pylist()
        self.paths = self.rows["path"].to_pylist()
        self.durations_s = self.rows["duration_s"].to_numpy()
        self.audible = np.array([state == "ok" for state in self.rows["audio_state"].to_pylist()])

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, key: ViewKey) -> DecodedClip:
        config, index = self.config, key.row
        duration_s, clip_s = float(self.durations_s[index]), config.data.clip_s
        span = (
            even_span(key.epoch, self.num_views, duration_s, clip_s)
            if key.stream == "eval"
            else random_span(config.seed, key, self.ids[index], duration_s, clip_s)
        )
        error, frames, waveform = None, None, None
        num_frames = config.video.num_frames if "video" in config.modalities else 0
        sample_rate = config.audio.sample_rate if "audio" in config.modalities and self.audible[index] else 0
        try:
            if self.cache is not None:
                recording = self.cache[self.ids[index]]
                if num_frames:
                    used = latest_frames(recording.times_s, frame_times(span.start_s, clip_s, num_frames))
                    frames = np.ascontiguousarray(crop_square(recording.frames[used], span.offset))
                if sample_rate:
                    waveform = cut_waveform(recording.waveform, span.start_s, clip_s, sample_rate)
            elif num_frames or sample_rate:
                frames, waveform = decode_clip(
                    self.root / self.paths[index],
                    span.start_s,
                    clip_s,
                    num_frames=num_frames,
                    size=config.video.decode_size,
                    offset=span.offset,
                    sample_rate=sample_rate,
                )
        except MediaError as fault:
            error = f"{fault.reason}: {fault.detail}"

        size = config.video.decode_size
        decoded: dict[str, torch.Tensor | None] = {"video": None, "audio": None}
        present = {}
        if "video" in config.modalities:
            present["video"] = frames is not None
            blank = np.zeros((num_frames, size, size, 3), np.uint8)
            decoded["video"] = torch.from_numpy(blank if frames is None else frames)
        if "audio" in config.modalities:
            present["audio"] = waveform is not None
            silence = np.zeros(round(clip_s * config.audio.sample_rate), np.float32)
            decoded["audio"] = torch.from_numpy(silence if waveform is None else waveform)
        return DecodedClip(
            index,
            decoded["video"],
            decoded["audio"],
            present,
            torch.from_numpy(span.draws.astype(np.float32)),
            error,
        )
