"""What motion and sound statistics say of made-up clips."""

import numpy as np
import pytest
import torch

from selavi.augment.motion import MotionAugmentation
from selavi.config import VideoConfig, load_config
from selavi.encoders.crafted.motion import CELLS, CraftedMotion
from selavi.encoders.statistics import BANDS, SoundStatistics, band_correlations
from selavi.errors import UsageError
from selavi.modalities.motion import STILL, frame_differences


def test_differences_are_of_brightness_and_say_in_which_direction() -> None:
    frames = np.zeros((4, 2, 2, 3), np.uint8)
    frames[1] = 50
    frames[2, 0] = 255
    frames[3] = frames[2]
    changes = frame_differences(frames)
    assert changes.shape == (3, 2, 2) and changes.dtype == np.uint8
    assert (changes[0] == STILL + 50).all() and (changes[2] == STILL).all()
    assert (changes[1, 0] == 255).all() and (changes[1, 1] == STILL - 50).all()  # +205 and -50: the first one is cut


def test_a_change_is_where_the_picture_has_it_after_the_crop_and_the_mirror() -> None:
    config = VideoConfig(num_frames=3, decode_size=16, size=16, crop_fraction=(1.0, 1.0), flip=1.0)
    changes = torch.full((1, 2, 16, 16), STILL, dtype=torch.uint8)
    changes[0, 1, 3, 2] = STILL + 64
    plain = MotionAugmentation(config).plain(changes)
    draws = dict.fromkeys(MotionAugmentation.draws, torch.zeros(1))
    mirrored = MotionAugmentation(config).random(changes, draws)
    assert plain.shape == (1, 1, 2, 16, 16) and plain[0, 0, 1, 3, 2] == pytest.approx(2, abs=1e-4)
    assert torch.allclose(mirrored, plain.flip(4), atol=1e-4) and plain.abs().sum() < 2.01


def test_crafted_motion_says_where_it_moves() -> None:
    still = torch.zeros(1, 1, 9, 32, 32)
    still[..., :8, 24:] = torch.tensor([1.0, -1.0] * 4 + [1.0]).view(1, 1, 9, 1, 1)
    means = CraftedMotion()(still)[0, : CELLS * CELLS].view(CELLS, CELLS)
    assert means.argmax() == CELLS - 1 and means[0, CELLS - 1] == 1 and means.sum() == 1


def test_bands_that_run_alike_correlate_and_a_flat_one_with_none() -> None:
    time = torch.linspace(0, 20, 60)
    sound = torch.zeros(1, 1, 2 * BANDS, 60)
    sound[0, 0, 0:2] = 3 + time.sin()
    sound[0, 0, 2:4] = 2 * time.sin()
    sound[0, 0, 4:6] = -time.sin()
    correlations = band_correlations(sound)[0]
    pairs = torch.triu_indices(BANDS, BANDS, 1).T.tolist()
    found = {tuple(pair): value for pair, value in zip(pairs, correlations.tolist(), strict=True)}
    assert found[0, 1] == pytest.approx(1) and found[0, 2] == pytest.approx(-1) and found[0, 7] == 0


def test_statistics_have_nothing_to_learn_and_one_scale() -> None:
    encoder = SoundStatistics()
    assert not list(encoder.parameters())
    sounds = 5 + 3 * torch.randn(64, 1, 32, 40, generator=torch.Generator().manual_seed(0))
    encoder.train()(sounds)
    values = encoder.eval()(sounds)
    assert values.shape == (64, encoder.num_features)
    assert values.mean(0).abs().max() < 1e-3 and (values.std(0) - 1).abs().max() < 0.05


def test_motion_needs_two_frames() -> None:
    with pytest.raises(UsageError, match=r"video.num_frames must be 2 or more for motion, got 1"):
        load_config(None, ["modalities=[motion]", "video.num_frames=1"])
    with pytest.raises(UsageError, match=r"moves.num_frames must be 2 or more for motion, got 1"):
        load_config(None, ["modalities={moves: motion}", "moves.num_frames=1"])
