"""From decoded clips to what the encoders read, on the device and in whole batches.

Everything random comes from the numbers that travel with each clip (ClipBatch.draws), so a view is the same
whatever batch, worker or rank it is in.
"""

import math
from typing import NamedTuple

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
        self.log_mel = LogMel(audio)

    @torch.no_grad()
    def forward(self, batch: ClipBatch, random: bool) -> dict[str, Tensor]:
        """Transform a batch; `random=False` takes the whole square, unmirrored, and the sound as it is."""
        draws = Draws(*batch.draws.T[: len(Draws._fields)])
        result = {}
        if "video" in batch.inputs:
            frames = batch.inputs["video"]
            result["video"] = self._random_video(frames, draws) if random else self._plain_video(frames)
        if "audio" in batch.inputs:
            waveform = batch.inputs["audio"].float() / 32768
            result["audio"] = self._random_audio(waveform, draws) if random else self._plain_audio(waveform)
        return result

    def _plain_video(self, frames: Tensor) -> Tensor:
        return _normalise(crop_resize(_planes(frames), self.video.size, *_centre(frames)))

    def _random_video(self, frames: Tensor, draws: Draws) -> Tensor:
        low, high = self.video.crop_fraction
        side = low + (high - low) * draws.crop_side
        flipped = draws.flip < self.video.flip
        x = crop_resize(_planes(frames), self.video.size, side, draws.crop_x, draws.crop_y, flipped)
        if self.video.colour_jitter > 0 or self.video.greyscale > 0:
            x = jitter_colour(x, self.video.colour_jitter, self.video.greyscale, draws)
        return _normalise(x)

    def _plain_audio(self, waveform: Tensor) -> Tensor:
        return standardise(self.log_mel(waveform), self.audio.standardise)

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


def standardise(spectrogram: Tensor, how: str) -> Tensor:
    """`clip`: zero mean and unit variance over each (1, F, T'); `none`: unchanged."""
    if how == "none":
        return spectrogram
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
    grid = F.affine_grid(theta, [len(planes), 1, size, size], align_corners=False)
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


def _planes(frames: Tensor) -> Tensor:
    """(B, T, h, w, 3) uint8 -> (B, 3, T, h, w) float32 in [0, 255]."""
    return frames.permute(0, 4, 1, 2, 3).float()


def _centre(frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """side, x, y, flip of the whole square."""
    whole = torch.ones(len(frames), device=frames.device)
    return whole, whole / 2, whole / 2, torch.zeros(len(frames), dtype=torch.bool, device=frames.device)


def _normalise(clips: Tensor) -> Tensor:
    return (clips / 255 - 0.45) / 0.225  # mean and deviation of every colour, as in the official code
