"""Sound as the encoder reads it: log-mel spectrograms, and their random changes."""

import math
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio.functional
from torch import Tensor, nn

from selavi.config import AudioConfig


class AudioAugmentation(nn.Module):
    """Waveforms (B, S) int16 -> standardised log-mel spectrograms (B, 1, F, T') float32."""

    draws: ClassVar[Mapping[str, int]] = {
        "volume": 9,
        "time_mask_size": 10,
        "time_mask_place": 11,
        "mel_mask_size": 12,
        "mel_mask_place": 13,
        "pitch": 14,
        "tone_slope": 15,
        "tone_bend": 16,
        "tone_wave": 17,
        "time_shift": 18,
    }
    expects: ClassVar[tuple[str, ...]] = (
        "audio.filter_bank",
        "audio.standardise",
        "audio.sample_rate",
        "audio.num_mels",
        "audio.num_fft",
        "audio.window_s",
        "audio.hop_s",
    )

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        self.config = config
        self.log_mel = LogFilterBank(config) if config.filter_bank == "psf" else LogMel(config)

    def plain(self, values: Tensor) -> Tensor:
        """The sound as it is."""
        return standardise(self.log_mel(_waveform(values)), self.config.standardise)

    def random(self, values: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        """Another volume, pitch, tone and beginning; masks over time and over the mel bands."""
        config = self.config
        gain = 1 + config.volume_jitter * (2 * draws["volume"] - 1)
        x = self.log_mel(_waveform(values) * gain[:, None])
        x = colour_tone(shift_pitch(x, config.shift_mel, draws["pitch"]), config.tone_jitter, draws)
        x = roll_time(standardise(x, config.standardise), config.shift_time, draws["time_shift"])
        x = mask_axis(x, 3, config.mask_time, draws["time_mask_size"], draws["time_mask_place"])
        return mask_axis(x, 2, config.mask_mel, draws["mel_mask_size"], draws["mel_mask_place"])


class LogMel(nn.Module):
    """Waveform (B, S) -> natural logarithm of the mel power spectrogram (B, 1, F, T').

    Slaney's mel scale and normalisation, Hann window, as librosa.feature.melspectrogram by default.  Windows lie
    inside the clip: 1 s in windows of 20 ms, 10 ms apart, gives T' = 99.
    """

    FLOOR = 1e-6

    def __init__(self, config: AudioConfig) -> None:
        super().__init__()
        window, hop = round(config.window_s * config.sample_rate), round(config.hop_s * config.sample_rate)
        self.num_fft, self.hop = config.num_fft, hop
        # torchaudio centres the window in num_fft samples: so many zeros on both sides put it at the edge
        self.margin = (config.num_fft - window) // 2
        filters = torchaudio.functional.melscale_fbanks(
            config.num_fft // 2 + 1,
            0.0,
            float(config.sample_rate // 2),
            config.num_mels,
            config.sample_rate,
            norm="slaney",
            mel_scale="slaney",
        )
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        self.register_buffer("filters", filters, persistent=False)
        self.window: Tensor
        self.filters: Tensor

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, S) float32 in [-1, 1] -> (B, 1, F, T')."""
        padded = F.pad(waveform, (self.margin, self.margin))
        with torch.autocast(waveform.device.type, enabled=False):
            power = torchaudio.functional.spectrogram(
                padded, 0, self.window, self.num_fft, self.hop, len(self.window), 2.0, normalized=False, center=False
            )
            mels = (power.transpose(1, 2) @ self.filters).transpose(1, 2)
            return (mels + self.FLOOR).log()[:, None]


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


def colour_tone(spectrogram: Tensor, strength: float, draws: Mapping[str, Tensor]) -> Tensor:
    """Filter each clip by a smooth random curve over the mel axis, of up to `strength` nepers a component.

    A room, a microphone or another background do the same; the curve is a sum of three cosines.
    """
    if strength == 0:
        return spectrogram
    num_mels = spectrogram.shape[2]
    at = (torch.arange(num_mels, device=spectrogram.device) + 0.5) * (math.pi / num_mels)
    waves = torch.stack([at.cos(), (2 * at).cos(), (3 * at).cos()])
    amplitudes = strength * (2 * torch.stack([draws["tone_slope"], draws["tone_bend"], draws["tone_wave"]], 1) - 1)
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


def _waveform(samples: Tensor) -> Tensor:
    """(B, S) int16 -> float32 in [-1, 1]."""
    return samples.float() / 32768
