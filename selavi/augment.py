"""From decoded clips to what the encoders read, on the device and in whole batches.

Everything random comes from the numbers that travel with each clip (ClipBatch.draws), so a view is the same
whatever batch, worker or rank it is in.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor, nn

from selavi.batch import NUM_DRAWS, ClipBatch
from selavi.config import AudioConfig, VideoConfig


class Draws(NamedTuple):
    """What each of a clip's uniform numbers is for, (B,) each."""

    crop_side: Tensor
    crop_x: Tensor
    crop_y: Tensor
    flip: Tensor
    brightness: Tensor
    contrast: Tensor
    saturation: Tensor
    hue: Tensor
    greyscale: Tensor
    volume: Tensor
    time_mask_size: Tensor
    time_mask_place: Tensor
    mel_mask_size: Tensor
    mel_mask_place: Tensor
    pitch: Tensor
    tone_slope: Tensor
    tone_bend: Tensor
    tone_wave: Tensor
    time_shift: Tensor


assert len(Draws._fields) <= NUM_DRAWS


class Augment(nn.Module):
    """ClipBatch -> {"video": (B, 3, T, size, size), "audio": (B, 1, F, T')}, both float32 and normalised."""

    def __init__(self, video: VideoConfig, audio: AudioConfig) -> None:
        super().__init__()
        self.video, self.audio = video, audio
        self.log_mel = LogFilterBank(audio) if audio.filter_bank == "psf" else LogMel(audio)
        self.register_buffer("mean", torch.tensor(video.mean).view(3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(video.std).view(3, 1, 1, 1), persistent=False)
        self.mean: Tensor
        self.std: Tensor

    @torch.no_grad()
    def forward(self, batch: ClipBatch, random: bool) -> dict[str, Tensor]:
        """Transform a batch; `random=False` takes the whole square, unmirrored, and the sound as it is."""
        if not random:
            return self.plain(batch.inputs)
        draws = Draws(*batch.draws.T[: len(Draws._fields)])
        result = {}
        if "video" in batch.inputs:
            result["video"] = self._random_video(batch.inputs["video"], draws)
        if "audio" in batch.inputs:
            result["audio"] = self._random_audio(_waveform(batch.inputs["audio"]), draws)
        return result

    def plain(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Transform clips, video (B, T, h, w, 3) uint8 and audio (B, S) int16, without anything random."""
        result = {}
        if "video" in inputs:
            frames = inputs["video"]
            result["video"] = self._normalise(crop_resize(_planes(frames), self.video.size, *_centre(frames)))
        if "audio" in inputs:
            spectrogram = self.log_mel(_waveform(inputs["audio"]))
            result["audio"] = standardise(spectrogram, self.audio.standardise)
        return result

    def _random_video(self, frames: Tensor, draws: Draws) -> Tensor:
        low, high = self.video.crop_fraction
        side = low + (high - low) * draws.crop_side
        flipped = draws.flip < self.video.flip
        x = crop_resize(_planes(frames), self.video.size, side, draws.crop_x, draws.crop_y, flipped)
        if self.video.colour_jitter > 0 or self.video.greyscale > 0:
            x = jitter_colour(x, self.video.colour_jitter, self.video.greyscale, draws)
        return self._normalise(x)

    def _normalise(self, clips: Tensor) -> Tensor:
        return (clips / 255 - self.mean) / self.std

    def _random_audio(self, waveform: Tensor, draws: Draws) -> Tensor:
        gain = 1 + self.audio.volume_jitter * (2 * draws.volume - 1)
        x = self.log_mel(waveform * gain[:, None])
        x = colour_tone(shift_pitch(x, self.audio.shift_mel, draws.pitch), self.audio.tone_jitter, draws)
        x = roll_time(standardise(x, self.audio.standardise), self.audio.shift_time, draws.time_shift)
        x = mask_axis(x, 3, self.audio.mask_time, draws.time_mask_size, draws.time_mask_place)
        return mask_axis(x, 2, self.audio.mask_mel, draws.mel_mask_size, draws.mel_mask_place)


class LogMel(nn.Module):
    """Waveform (B, S) -> natural logarithm of the mel power spectrogram (B, 1, F, T').

    Slaney's mel scale and normalisation, Hann window, as librosa.feature.melspectrogram by default.  Windows lie
    inside the clip: 1 s in windows of 20 ms, 10 ms apart, gives T' = 99.
    """

    FLOOR = 1e-6

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        window, hop = round(config.window_s * config.sample_rate), round(config.hop_s * config.sample_rate)
        # torchaudio centres the window in num_fft samples: so many zeros on both sides put it at the edge
        self.margin = (config.num_fft - window) // 2
        self.mel = torchaudio.transforms.MelSpectrogram(
            config.sample_rate,
            config.num_fft,
            window,
            hop,
            n_mels=config.num_mels,
            center=False,
            norm="slaney",
            mel_scale="slaney",
        )

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, S) float32 in [-1, 1] -> (B, 1, F, T')."""
        padded = F.pad(waveform, (self.margin, self.margin))
        with torch.autocast(waveform.device.type, enabled=False):
            return (self.mel(padded) + self.FLOOR).log()[:, None]


class LogFilterBank(nn.Module):
    """Waveform (B, S) -> natural logarithm of filter-bank energies (B, 1, F, T'), as the official weights expect it.

    The rule is that of python_speech_features' logfbank: samples on the scale of 16 bits, pre-emphasis 0.97 over the
    clip, frames without a window (the last one filled up with zeros), power spectrum over `num_fft`, triangular
    filters between whole bins of the transform, and float64's epsilon in place of 0.  Filters narrower than a bin
    are 0 throughout, and so their rows are ln(epsilon) = -36.04: 38 of 257 at 24 kHz and 1024 samples.
    """

    PREEMPHASIS = 0.97
    EPSILON = torch.finfo(torch.float64).eps

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.num_fft = config.num_fft
        self.window, self.hop = (int(s * config.sample_rate + 0.5) for s in (config.window_s, config.hop_s))
        filters = _triangles(config.sample_rate, config.num_fft, config.num_mels)
        self.register_buffer("filters", filters, persistent=False)
        self.filters: Tensor

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, S) float32 in [-1, 1] -> (B, 1, F, T')."""
        samples = waveform * 32768
        emphasised = torch.cat([samples[:, :1], samples[:, 1:] - self.PREEMPHASIS * samples[:, :-1]], 1)
        num_frames = 1 + math.ceil(max(0, samples.shape[1] - self.window) / self.hop)
        missing = (num_frames - 1) * self.hop + self.window - samples.shape[1]
        frames = F.pad(emphasised, (0, missing)).unfold(1, self.window, self.hop)
        with torch.autocast(waveform.device.type, enabled=False):
            power = torch.fft.rfft(frames.float(), self.num_fft).abs().square() / self.num_fft
            energies = power @ self.filters.T
            return energies.where(energies != 0, self.EPSILON).log().transpose(1, 2)[:, None]


def _triangles(sample_rate: int, num_fft: int, num_filters: int) -> Tensor:
    """Triangles (F, num_fft // 2 + 1) float32 that rise from 0 to 1 and fall to 0 between neighbours of F + 2 bins.

    The bins are equally spaced in mels, 2595 log10(1 + Hz / 700), from 0 to half the sample rate.
    """
    mels = np.linspace(0, 2595 * np.log10(1 + sample_rate / 2 / 700), num_filters + 2)
    edges = np.floor((num_fft + 1) * 700 * (10 ** (mels / 2595) - 1) / sample_rate)
    low, peak, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    at = np.arange(num_fft // 2 + 1)
    with np.errstate(divide="ignore", invalid="ignore"):  # sides without a bin, which are not taken
        rising = np.where((at >= low) & (at < peak), (at - low) / (peak - low), 0)
        falling = np.where((at >= peak) & (at < high), (high - at) / (high - peak), 0)
    return torch.from_numpy(rising + falling).float()


def standardise(spectrogram: Tensor, how: str) -> Tensor:
    """`clip`: zero mean and unit variance over each (1, F, T'); `fixed`: (x - 1.93) / 17.89; `none`: unchanged."""
    if how == "none":
        return spectrogram
    if how == "fixed":
        return (spectrogram - 1.93) / 17.89  # the official evaluation's figures for its training set
    std, mean = torch.std_mean(spectrogram, (1, 2, 3), keepdim=True)
    return (spectrogram - mean) / (std + 1e-3)


def shift_pitch(spectrogram: Tensor, largest: float, place: Tensor) -> Tensor:
    """Move each (1, F, T') along the mel axis by up to `largest` of it; the edge rows fill what opens."""
    if largest == 0:
        return spectrogram
    num_mels = spectrogram.shape[2]
    shift = ((2 * place - 1) * largest * num_mels).round().long()
    rows = torch.arange(num_mels, device=spectrogram.device) + shift[:, None]
    rows = rows.clamp(0, num_mels - 1)[:, None, :, None].expand_as(spectrogram)
    return spectrogram.gather(2, rows)


def roll_time(spectrogram: Tensor, largest: float, place: Tensor) -> Tensor:
    """Move each (1, F, T') along the time axis by up to `largest` of it, either way; what leaves enters again."""
    if largest == 0:
        return spectrogram
    length = spectrogram.shape[3]
    shift = ((2 * place - 1) * largest * length).round().long()
    columns = (torch.arange(length, device=spectrogram.device) + shift[:, None]) % length
    return spectrogram.gather(3, columns[:, None, None, :].expand_as(spectrogram))


def colour_tone(spectrogram: Tensor, strength: float, draws: Draws) -> Tensor:
    """Filter each clip by a smooth random curve over the mel axis, of up to `strength` nepers a component.

    A room, a microphone or another background do the same; the curve is a sum of three cosines.
    """
    if strength == 0:
        return spectrogram
    num_mels = spectrogram.shape[2]
    at = (torch.arange(num_mels, device=spectrogram.device) + 0.5) * (math.pi / num_mels)
    waves = torch.stack([at.cos(), (2 * at).cos(), (3 * at).cos()])
    amplitudes = strength * (2 * torch.stack([draws.tone_slope, draws.tone_bend, draws.tone_wave], 1) - 1)
    return spectrogram + (amplitudes @ waves)[:, None, :, None]


def mask_axis(x: Tensor, axis: int, largest: float, size: Tensor, place: Tensor) -> Tensor:
    """Set a random stretch of an axis to 0 in each clip: up to `largest` of it (SpecAugment, arXiv 1904.08779)."""
    if largest == 0:
        return x
    length = x.shape[axis]
    width = (size * largest * length).floor()
    first = (place * (length - width + 1)).floor()
    position = torch.arange(length, device=x.device)
    hidden = (position >= first[:, None]) & (position < (first + width)[:, None])
    shape = [len(x), 1, 1, 1]
    shape[axis] = length
    return x.masked_fill(hidden.view(shape), 0.0)


def crop_resize(planes: Tensor, size: int, side: Tensor, x: Tensor, y: Tensor, flip: Tensor) -> Tensor:
    """Cut a square from each clip and resize it bilinearly.

    Args:
        planes: (B, 3, T, h, w) float32.
        size: side of the result in pixels.
        side: (B,) side of the square as a share of the frame.
        x: (B,) place of the square from left (0) to right (1).
        y: (B,) place from top to bottom.
        flip: (B,) bool, mirror left and right.

    Returns:
        (B, 3, T, size, size) float32.
    """
    zero = torch.zeros_like(side)
    theta = torch.stack(
        [
            torch.stack([torch.where(flip, -side, side), zero, (2 * x - 1) * (1 - side)], 1),
            torch.stack([zero, side, (2 * y - 1) * (1 - side)], 1),
        ],
        1,
    )
    grid = F.affine_grid(theta, [planes.shape[0], 1, size, size], align_corners=False)
    cut = F.grid_sample(planes.flatten(1, 2), grid, padding_mode="border", align_corners=False)
    return cut.unflatten(1, planes.shape[1:3])


def jitter_colour(clips: Tensor, strength: float, greyscale: float, draws: Draws) -> Tensor:
    """Change brightness, contrast, saturation and hue of each clip as one affine map of its colours.

    Args:
        clips: (B, 3, T, h, w) float32 in [0, 255].
        strength: largest relative change; the hue turns by up to a quarter of it, in turns.
        greyscale: probability that no colour is left.
        draws: the clips' numbers.
    """

    def factor(u: Tensor) -> Tensor:
        return 1 + strength * (2 * u - 1)

    saturation = torch.where(draws.greyscale < greyscale, torch.zeros_like(draws.saturation), factor(draws.saturation))
    angle = 2 * math.pi * (strength / 4) * (2 * draws.hue - 1)
    # Rec. 601 luma stays; chroma (Y, I, Q) turns by `angle` and scales by `saturation`
    to_yiq = clips.new_tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    cos, sin, zero = angle.cos() * saturation, angle.sin() * saturation, torch.zeros_like(angle)
    turn = torch.stack(
        [
            torch.stack([torch.ones_like(angle), zero, zero], 1),
            torch.stack([zero, cos, -sin], 1),
            torch.stack([zero, sin, cos], 1),
        ],
        1,
    )
    colour = torch.linalg.inv(to_yiq) @ turn @ to_yiq * factor(draws.brightness)[:, None, None]
    mean = (colour @ clips.mean((2, 3, 4))[..., None]).mean(1)[:, 0]  # (B,) the grey that contrast turns about
    contrast = factor(draws.contrast)
    shift = (mean * (1 - contrast))[:, None, None]
    mapped = torch.baddbmm(shift, colour * contrast[:, None, None], clips.flatten(2))
    return mapped.clamp_(0, 255).view_as(clips)


def _waveform(samples: Tensor) -> Tensor:
    """(B, S) int16 -> float32 in [-1, 1]."""
    return samples.float() / 32768


def _planes(frames: Tensor) -> Tensor:
    """(B, T, h, w, 3) uint8 -> (B, 3, T, h, w) float32 in [0, 255]."""
    return frames.permute(0, 4, 1, 2, 3).float()


def _centre(frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """side, x, y, flip of the whole square."""
    whole = torch.ones(frames.shape[0], device=frames.device)
    return whole, whole / 2, whole / 2, torch.zeros(frames.shape[0], dtype=torch.bool, device=frames.device)
