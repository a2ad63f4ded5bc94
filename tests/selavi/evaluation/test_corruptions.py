from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from selavi.batch import NUM_DRAWS, ClipBatch
from selavi.config import Config
from selavi.evaluation.corruptions import (
    CLEAN,
    CORRUPTIONS,
    Span,
    add_audio_noise,
    degrade_batch,
    drop_audio,
    freeze_video,
    low_pass_audio,
    lower_resolution,
)

SPAN = Span(1.0, 8000, np.random.default_rng(0))


def pictures(size: int = 32) -> np.ndarray:
    """(6, size, size, 3): a textured square that moves."""
    frames = np.full((6, size, size, 3), 90, np.uint8)
    texture = np.random.default_rng(1).integers(0, 256, (12, 12, 3))
    for index in range(6):
        frames[index, 8:20, index * 2 : index * 2 + 12] = texture
    return frames


def tone(frequency: float, seconds: float = 1.0) -> np.ndarray:
    return (8000 * np.sin(2 * np.pi * frequency * np.arange(round(8000 * seconds)) / 8000)).astype(np.int16)


def noisy_tone() -> np.ndarray:
    return (tone(440) + np.random.default_rng(2).normal(0, 900, 8000)).astype(np.int16)


def severity_of(name: str) -> list[float]:
    corruption = CORRUPTIONS[name]
    values = pictures() if corruption.modality == "video" else noisy_tone()
    assert corruption.degrade is not None
    changed = [
        corruption.degrade(values, severity, replace(SPAN, rng=np.random.default_rng(0)))
        for severity in corruption.severities
    ]
    assert all(one.shape == values.shape and one.dtype == values.dtype for one in changed)
    return [float(np.abs(one.astype(float) - values).mean()) for one in changed]


@pytest.mark.parametrize("name", [name for name, each in CORRUPTIONS.items() if each.degrade is not None])
def test_each_severity_takes_more_away_than_the_one_before(name: str) -> None:
    distances = severity_of(name)
    assert distances == sorted(distances)
    assert distances[-1] > max(1.0, 1.5 * distances[0])


def test_low_resolution_keeps_means_and_loses_detail() -> None:
    frames = np.zeros((1, 8, 8, 3), np.uint8)
    frames[:, :, ::2] = 200
    assert np.unique(lower_resolution(frames, 2, SPAN)).tolist() == [100]
    assert np.array_equal(lower_resolution(frames, 1, SPAN), frames)


def test_a_frozen_picture_repeats_the_last_moving_frame() -> None:
    frames = pictures()
    half = freeze_video(frames, 0.5, SPAN)
    assert np.array_equal(half[:3], frames[:3])
    assert (half[3:] == frames[2]).all()
    assert (freeze_video(frames, 1.0, SPAN) == frames[0]).all()


@pytest.mark.parametrize("ratio", [20, 0, -10])
def test_noise_has_its_ratio_to_the_sound(ratio: float) -> None:
    sound = tone(440) // 8
    noise = add_audio_noise(sound, ratio, SPAN).astype(float) - sound
    found = 10 * np.log10(np.mean(sound.astype(float) ** 2) / np.mean(noise**2))
    assert found == pytest.approx(ratio, abs=0.4)


def test_noise_never_clips_and_leaves_silence_silent() -> None:
    loud = (tone(440) * 4.0).astype(np.int16)
    assert np.abs(add_audio_noise(loud, -10, SPAN).astype(int)).max() == 32767
    assert not add_audio_noise(np.zeros(100, np.int16), -10, SPAN).any()


def test_a_low_pass_takes_what_is_above() -> None:
    low, high = tone(200), tone(3000)
    middle = slice(1000, 7000)
    filtered = low_pass_audio((low + high).astype(np.int16), 1000, SPAN)
    assert filtered[middle] == pytest.approx(low[middle], abs=50)
    assert np.array_equal(low_pass_audio(low, 4000, SPAN), low)  # half of the sample rate: nothing to remove


def test_holes_have_their_length_and_grow_with_the_severity() -> None:
    sound = np.full(8000, 7, np.int16)
    changed = [drop_audio(sound, s, replace(SPAN, rng=np.random.default_rng(0))) for s in (0.25, 0.5, 1.0)]
    assert [(one == 0).sum() for one in changed] == [2000, 4000, 8000]
    assert ((changed[0] == 0) <= (changed[1] == 0)).all()
    edges = np.flatnonzero(np.diff(changed[0]))
    assert ((edges + 1) % 400 == 0).all()


# ---- batches ----


def batch_of(config: Config, num_clips: int, num_views: int) -> ClipBatch:
    count, size = num_clips * num_views, config.video.decode_size
    rng = np.random.default_rng(3)
    video = np.stack([np.roll(pictures(size)[: config.video.num_frames], 3 * n, axis=2) for n in range(count)])
    sound = np.stack([tone(rng.uniform(100, 3000), config.data.clip_s) for _ in range(count)])
    everywhere = torch.ones(count, dtype=torch.bool)
    return ClipBatch(
        torch.arange(num_clips).repeat_interleave(num_views),
        {"video": torch.from_numpy(video), "audio": torch.from_numpy(sound)},
        {"video": everywhere, "audio": everywhere.clone()},
        torch.full((count, NUM_DRAWS), 0.5),
        [],
    )


@pytest.fixture
def config(tiny: Callable[..., Config]) -> Config:
    return tiny("encoders.audio_width=8")


def degrade(config: Config, batch: ClipBatch, name: str, severity: float, seed: int = 0) -> ClipBatch:
    ids = [f"clip {row}" for row in range(10)]
    return degrade_batch(batch, name, severity, ids=ids, num_views=2, seed=seed, config=config)


def test_only_the_modality_meant_is_touched(config: Config) -> None:
    batch = batch_of(config, 2, 2)
    for name, corruption in CORRUPTIONS.items():
        changed = degrade(config, batch, name, corruption.severities[-1])
        other = "audio" if corruption.modality == "video" else "video"
        assert torch.equal(changed.inputs[other], batch.inputs[other])
        assert not torch.equal(changed.inputs[corruption.modality], batch.inputs[corruption.modality])
        assert bool(changed.present[corruption.modality].any()) == (corruption.degrade is not None)
        assert changed.present[other].all()
    assert degrade(config, batch, CLEAN, 0.0) is batch


def test_noise_is_a_function_of_seed_clip_and_view(config: Config) -> None:
    batch = batch_of(config, 3, 2)
    whole = degrade(config, batch, "video_noise", 32).inputs["video"]
    last = ClipBatch(
        batch.index[4:],
        {name: values[4:] for name, values in batch.inputs.items()},
        {name: mask[4:] for name, mask in batch.present.items()},
        batch.draws[4:],
        [],
    )
    assert torch.equal(degrade(config, last, "video_noise", 32).inputs["video"], whole[4:])
    assert not torch.equal(degrade(config, batch, "video_noise", 32, seed=1).inputs["video"], whole)
    noise = whole.int() - batch.inputs["video"].int()
    assert not torch.equal(noise[4], noise[5])  # two views of a clip


def test_an_unknown_corruption_is_refused(config: Config) -> None:
    with pytest.raises(ValueError, match="no corruption 'fog'; there are clean, compression, "):
        degrade(config, batch_of(config, 1, 2), "fog", 1.0)
