import librosa
import numpy as np
import pytest
import torch
from torch import Tensor

from selavi.augment import AUGMENTATIONS, Augment
from selavi.augment.audio import (
    AudioAugmentation,
    LogFilterBank,
    LogMel,
    colour_tone,
    mask_axis,
    roll_time,
    shift_pitch,
    standardise,
)
from selavi.augment.colours import ColourJitter
from selavi.augment.video import VideoAugmentation, crop_resize
from selavi.batch import NUM_DRAWS, ClipBatch
from selavi.config import AudioConfig, Config, VideoConfig


def draws(num_clips: int, value: float = 0.5, **named: float) -> dict[str, Tensor]:
    """The same number for everything but what is named."""
    names = VideoAugmentation.draws.keys() | AudioAugmentation.draws.keys()
    return {name: torch.full((num_clips,), named.get(name, value)) for name in names}


def sounds(num_clips: int, num_samples: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(num_samples) / num_samples
    tones = torch.stack([torch.sin(2 * torch.pi * (100 + 60 * i) * t * (1 + t)) for i in range(num_clips)])
    return 0.3 * tones + 0.05 * torch.randn(num_clips, num_samples, generator=generator)


def samples(waveform: Tensor) -> Tensor:
    """What a loader gives."""
    return (waveform * 32768).round().to(torch.int16)


# ---- log-mel ----


@pytest.mark.parametrize(
    "config",
    [
        AudioConfig(),
        AudioConfig(sample_rate=16000, num_mels=64, num_fft=512, window_s=0.032, hop_s=0.016),
        AudioConfig(sample_rate=8000, num_mels=40, num_fft=512, window_s=0.025, hop_s=0.01),
    ],
    ids=["published", "small", "window shorter than the transform"],
)
def test_log_mel_is_librosas(config: AudioConfig) -> None:
    waveform = sounds(2, config.sample_rate)
    found = LogMel(config)(waveform)[:, 0]
    window, hop = round(config.window_s * config.sample_rate), round(config.hop_s * config.sample_rate)
    margin = (config.num_fft - window) // 2  # librosa too centres a short window in the transform
    for clip, spectrogram in zip(waveform.numpy(), found.numpy(), strict=True):
        power = librosa.feature.melspectrogram(
            y=np.pad(clip, margin),
            sr=config.sample_rate,
            n_fft=config.num_fft,
            win_length=window,
            hop_length=hop,
            n_mels=config.num_mels,
            center=False,
        )
        assert spectrogram.shape == power.shape
        np.testing.assert_allclose(spectrogram, np.log(power + LogMel.FLOOR), rtol=1e-3, atol=2e-3)


def test_a_second_in_windows_of_20_ms_gives_99_columns() -> None:
    log_mel = LogMel(AudioConfig())
    assert log_mel(sounds(3, 24000)).shape == (3, 1, 257, 99)
    assert log_mel(sounds(1, 48000)).shape == (1, 1, 257, 199)


@pytest.mark.parametrize(("sample_rate", "num_empty"), [(24000, 38), (48000, 56)])
def test_the_originals_filter_bank_by_its_rule(sample_rate: int, num_empty: int) -> None:
    """One frame at a time, in float64; the numbers of empty filters are those known of the original."""
    config = AudioConfig(sample_rate=sample_rate, filter_bank="psf")
    bank = LogFilterBank(config)
    assert (bank.filters.sum(1) == 0).sum() == num_empty
    window, hop = sample_rate // 50, sample_rate // 100
    waveform = sounds(1, sample_rate // 5 + 7)  # the last frame is filled up
    signal = waveform[0].double().numpy() * 32768
    emphasised = np.concatenate([signal[:1], signal[1:] - 0.97 * signal[:-1], np.zeros(window)])
    num_frames = 1 + -(-(len(signal) - window) // hop)
    found = bank(waveform)[0, 0]
    assert found.shape == (257, num_frames)
    for frame in (0, 5, num_frames - 1):
        power = np.abs(np.fft.rfft(emphasised[frame * hop : frame * hop + window], 1024)) ** 2 / 1024
        energies = bank.filters.double().numpy() @ power
        expected = np.log(np.where(energies == 0, np.finfo(float).eps, energies))
        np.testing.assert_allclose(found[:, frame], expected, rtol=1e-3, atol=2e-3)
    assert bank(torch.zeros(1, sample_rate)).unique().item() == pytest.approx(-36.0437, abs=1e-4)


def test_fixed_figures_standardise_the_originals_bank_only() -> None:
    spectrogram = torch.tensor([1.93, 1.93 + 17.89]).view(1, 1, 1, 2)
    torch.testing.assert_close(standardise(spectrogram, "fixed").flatten(), torch.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"audio\.standardise must be clip or none with audio\.filter_bank=slaney"):
        AudioConfig(standardise="fixed")


def test_a_column_hears_its_own_window_only() -> None:
    """A click at 0.5 s is in the windows that hold it: [0.49, 0.51) and [0.50, 0.52), not in their neighbours."""
    waveform = torch.zeros(1, 24000)
    waveform[0, 12000 + 120] = 1.0
    energy = LogMel(AudioConfig())(waveform)[0, 0].exp().sum(0)
    heard = (energy > 1e-3).nonzero().flatten().tolist()
    assert heard == [49, 50]


def test_log_mel_of_silence_is_the_floor() -> None:
    spectrogram = LogMel(AudioConfig())(torch.zeros(1, 24000))
    torch.testing.assert_close(spectrogram, torch.full_like(spectrogram, float(np.log(LogMel.FLOOR))))
    assert (standardise(spectrogram, "clip") == 0).all()


def test_standardising_takes_loudness_away() -> None:
    spectrogram = 3 * torch.randn(2, 1, 16, 20, generator=torch.Generator().manual_seed(0)) - 5
    result = standardise(spectrogram, "clip")
    torch.testing.assert_close(result.mean((1, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
    torch.testing.assert_close(result.std((1, 2, 3)), torch.ones(2), atol=1e-3, rtol=0)
    torch.testing.assert_close(standardise(spectrogram + 4, "clip"), result, atol=1e-4, rtol=0)
    assert standardise(spectrogram, "none") is spectrogram


# ---- augmentation of sound ----


def test_pitch_moves_rows_and_repeats_the_edge() -> None:
    spectrogram = torch.arange(10.0)[None, None, :, None].expand(3, 1, 10, 4)
    moved = shift_pitch(spectrogram, 0.2, torch.tensor([0.0, 0.5, 1.0]))
    assert moved[0, 0, :, 0].tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 6, 7]
    assert moved[1, 0, :, 0].tolist() == list(range(10))
    assert moved[2, 0, :, 3].tolist() == [2, 3, 4, 5, 6, 7, 8, 9, 9, 9]
    assert shift_pitch(spectrogram, 0.0, torch.rand(3)) is spectrogram


def test_time_rolls_and_wraps_around() -> None:
    spectrogram = torch.arange(8.0).expand(3, 1, 2, 8)
    rolled = roll_time(spectrogram, 0.5, torch.tensor([0.0, 0.5, 0.75]))
    assert rolled[0, 0, 0].tolist() == [4, 5, 6, 7, 0, 1, 2, 3]
    assert rolled[1, 0, 1].tolist() == list(range(8))
    assert rolled[2, 0, 1].tolist() == [2, 3, 4, 5, 6, 7, 0, 1]
    assert roll_time(spectrogram, 0.0, torch.rand(3)) is spectrogram


def test_tone_is_a_smooth_curve_over_the_mel_axis() -> None:
    spectrogram = torch.zeros(2, 1, 64, 5)
    flat = colour_tone(spectrogram, 0.7, draws(2))
    torch.testing.assert_close(flat, spectrogram)  # numbers of one half: every amplitude is 0
    curve = colour_tone(spectrogram, 0.7, draws(2, tone_slope=1.0))[1, 0]
    expected = 0.7 * torch.cos((torch.arange(64) + 0.5) * torch.pi / 64)
    torch.testing.assert_close(curve, expected[:, None].expand(64, 5))
    steepest = colour_tone(spectrogram, 0.7, draws(2, value=1.0))
    assert steepest.abs().max().item() <= 3 * 0.7
    assert colour_tone(spectrogram, 0.0, draws(2)) is spectrogram


@pytest.mark.parametrize("axis", [2, 3])
def test_masks_hide_one_stretch_in_each_clip(axis: int) -> None:
    x = torch.ones(4, 1, 20, 20)
    size, place = torch.tensor([0.0, 0.5, 0.999, 0.999]), torch.tensor([0.3, 0.0, 0.999, 0.5])
    hidden = (mask_axis(x, axis, 0.4, size, place) == 0).movedim(axis, 1).flatten(2)
    assert (hidden.all(2) == hidden.any(2)).all()  # whole rows or columns
    stretches = [row.nonzero().flatten().tolist() for row in hidden.all(2)]
    assert stretches == [[], [0, 1, 2, 3], list(range(13, 20)), list(range(7, 14))]
    assert mask_axis(x, axis, 0.0, size, place) is x


# ---- augmentation of the picture ----


def gradient(num_clips: int = 1, side: int = 16, frames: int = 2) -> Tensor:
    """(B, 3, T, side, side): red grows with the column, green with the row, blue is the frame's number."""
    x = torch.arange(side).float().expand(side, side)
    planes = torch.stack([x, x.T, torch.zeros(side, side)])[None, :, None].repeat(num_clips, 1, frames, 1, 1)
    planes[:, 2] = torch.arange(frames).float()[:, None, None]
    return planes


def whole(num_clips: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    half = torch.full((num_clips,), 0.5)
    return torch.ones(num_clips), half, half, torch.zeros(num_clips, dtype=torch.bool)


def test_the_whole_square_at_its_own_size_is_the_identity() -> None:
    planes = 255 * torch.rand(2, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(crop_resize(planes, 16, *whole(2)), planes, atol=1e-3, rtol=0)


def test_known_crops() -> None:
    """Half the side, from each corner, at the same scale: exactly the pixels of that corner."""
    planes, no = gradient(4), torch.zeros(4, dtype=torch.bool)
    x, y = torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    cut = crop_resize(planes, 8, torch.full((4,), 0.5), x, y, no)
    assert cut.shape == (4, 3, 2, 8, 8)
    for clip, (left, top) in enumerate([(0, 0), (8, 0), (0, 8), (8, 8)]):
        expected = planes[clip, :, :, top : top + 8, left : left + 8]
        torch.testing.assert_close(cut[clip], expected, atol=1e-3, rtol=0)


def test_resizing_averages_neighbours() -> None:
    half = crop_resize(gradient(), 8, *whole())
    torch.testing.assert_close(half[0, 0, 0, 0], 2 * torch.arange(8) + 0.5, atol=1e-3, rtol=0)


def test_a_mirrored_clip_is_mirrored_and_only_that() -> None:
    planes = gradient(2)
    side, x, y, _ = whole(2)
    cut = crop_resize(planes, 16, side, x, y, torch.tensor([True, False]))
    torch.testing.assert_close(cut[0], planes[0].flip(-1), atol=1e-3, rtol=0)
    torch.testing.assert_close(cut[1], planes[1], atol=1e-3, rtol=0)


@pytest.fixture
def colours() -> Tensor:
    return 255 * torch.rand(2, 3, 2, 8, 8, generator=torch.Generator().manual_seed(0))


def test_no_strength_leaves_the_colours(colours: Tensor) -> None:
    torch.testing.assert_close(ColourJitter(0.0, 0.0)(colours, draws(2, value=0.9)), colours, atol=0.05, rtol=0)
    torch.testing.assert_close(ColourJitter(0.5, 0.0)(colours, draws(2)), colours, atol=0.05, rtol=0)


def test_greyscale_is_the_luma_in_every_channel(colours: Tensor) -> None:
    grey = ColourJitter(0.0, 0.5)(colours, draws(2, greyscale=0.4))
    luma = 0.299 * colours[:, 0] + 0.587 * colours[:, 1] + 0.114 * colours[:, 2]
    for channel in range(3):
        torch.testing.assert_close(grey[:, channel], luma, atol=0.1, rtol=0)
    kept = ColourJitter(0.0, 0.5)(colours, draws(2, greyscale=0.6))
    torch.testing.assert_close(kept, colours, atol=0.05, rtol=0)


def test_brightness_scales_and_contrast_keeps_the_mean(colours: Tensor) -> None:
    dark = ColourJitter(0.4, 0.0)(colours, draws(2, brightness=0.0))
    torch.testing.assert_close(dark, 0.6 * colours, atol=0.05, rtol=0)
    soft = ColourJitter(0.4, 0.0)(colours, draws(2, contrast=0.0))
    torch.testing.assert_close(soft.mean((1, 2, 3, 4)), colours.mean((1, 2, 3, 4)), atol=0.05, rtol=0)
    torch.testing.assert_close(soft.std((2, 3, 4)), 0.6 * colours.std((2, 3, 4)), atol=0.05, rtol=0)


def test_the_hue_turns_and_grey_stays_grey() -> None:
    red = torch.zeros(1, 3, 1, 2, 2)
    red[:, 0] = 200
    turned = ColourJitter(0.8, 0.0)(red, draws(1, hue=1.0))
    assert turned[0, 1:].max() > 30 > 0
    luma = torch.tensor([0.299, 0.587, 0.114])
    grey = torch.full((1, 3, 1, 2, 2), 120.0)
    torch.testing.assert_close(ColourJitter(0.8, 0.0)(grey, draws(1, hue=1.0)), grey, atol=0.2, rtol=0)
    assert turned.min() >= 0 and turned.max() <= 255
    assert (luma @ turned[0, :, 0, 0, 0]).item() == pytest.approx((luma @ red[0, :, 0, 0, 0]).item(), rel=0.25)


# ---- whole views ----


VIDEO = VideoConfig(num_frames=2, decode_size=20, size=16, crop_fraction=(0.6, 0.9), colour_jitter=0.4, greyscale=0.3)
AUDIO = AudioConfig(
    sample_rate=8000, num_mels=24, num_fft=256, window_s=0.032, hop_s=0.016,
    shift_mel=0.1, tone_jitter=0.5, mask_time=0.3, mask_mel=0.3,
)  # fmt: skip


def augment_of(video: VideoConfig, audio: AudioConfig) -> Augment:
    return Augment(Config(video=video, audio=audio))


def batch(rows: list[int]) -> ClipBatch:
    """Rows of six clips."""
    generator = torch.Generator().manual_seed(4)
    frames = torch.randint(0, 256, (6, 2, 20, 20, 3), generator=generator, dtype=torch.uint8)
    numbers = torch.rand(6, NUM_DRAWS, generator=generator)
    yes = torch.ones(len(rows), dtype=torch.bool)
    return ClipBatch(
        torch.tensor(rows),
        {"video": frames[rows], "audio": samples(sounds(6, 8000))[rows]},
        {"video": yes, "audio": yes},
        numbers[rows],
        [],
    )


@pytest.mark.parametrize("random", [True, False])
def test_a_view_is_the_same_in_any_batch(random: bool) -> None:
    augment = augment_of(VIDEO, AUDIO)
    together, other = augment(batch([0, 1, 2, 3, 4, 5]), random), augment(batch([4, 1]), random)
    for modality in ("video", "audio"):
        torch.testing.assert_close(other[modality], together[modality][[4, 1]], atol=1e-4, rtol=1e-4)


def test_views_have_the_shapes_and_ranges_that_encoders_expect() -> None:
    for random in (True, False):
        view = augment_of(VIDEO, AUDIO)(batch([0, 1, 2]), random)
        assert view["video"].shape == (3, 3, 2, 16, 16)
        assert view["audio"].shape == (3, 1, 24, 61)
        assert view["video"].dtype == view["audio"].dtype == torch.float32
        assert -2.01 <= view["video"].min() <= view["video"].max() <= 2.45  # (x / 255 - 0.45) / 0.225


def test_only_random_views_depend_on_the_numbers() -> None:
    augment, clips = augment_of(VIDEO, AUDIO), batch([0, 1, 2])
    others = ClipBatch(clips.index, clips.inputs, clips.present, 1 - clips.draws, [])
    for modality in ("video", "audio"):
        assert torch.equal(augment(clips, False)[modality], augment(others, False)[modality])
        assert not torch.allclose(augment(clips, True)[modality], augment(others, True)[modality])


def test_a_plain_view_is_the_whole_square() -> None:
    clips = batch([2])
    plain = augment_of(VideoConfig(num_frames=2, decode_size=20, size=20), AUDIO)(clips, False)["video"]
    pixels = clips.inputs["video"].permute(0, 4, 1, 2, 3) / 255
    torch.testing.assert_close(plain, (pixels - 0.45) / 0.225, atol=1e-4, rtol=0)


def test_volume_changes_the_amplitude() -> None:
    config = AudioConfig(standardise="none", volume_jitter=0.5)
    quiet, loud = batch([0]), batch([0])
    quiet.draws[:], loud.draws[:] = 0.0, 0.999999
    sound = samples(sounds(1, 24000))
    waveform = sound.float() / 32768
    views = []
    for clips in (quiet, loud):
        clips.inputs["audio"] = sound
        views.append(augment_of(VIDEO, config)(clips, True)["audio"])
    expected = LogMel(config)(waveform * 0.5), LogMel(config)(waveform * 1.5)
    torch.testing.assert_close(views[0], expected[0], atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(views[1], expected[1], atol=1e-3, rtol=1e-3)


def test_one_modality_is_enough() -> None:
    clips = batch([0])
    alone = ClipBatch(clips.index, {"audio": clips.inputs["audio"]}, {"audio": clips.present["audio"]}, clips.draws, [])
    assert set(augment_of(VIDEO, AUDIO)(alone, True)) == {"audio"}


def test_no_number_of_a_clip_serves_twice() -> None:
    builders = [builder(Config()) for builder in AUGMENTATIONS.values()]
    draws = {(name, place) for augmentation in builders for name, place in augmentation.draws.items()}  # type: ignore[union-attr, operator]
    places = {place for _, place in draws}
    assert len(places) == len(draws) and places <= set(range(NUM_DRAWS))


def test_nothing_of_it_is_in_a_checkpoint_and_that_of_earlier_versions_is_passed_over() -> None:
    model = torch.nn.ModuleDict({"augment": augment_of(VIDEO, AUDIO)})
    assert not model.state_dict()
    model.load_state_dict({"augment.log_mel.mel.spectrogram.window": torch.zeros(3)})
