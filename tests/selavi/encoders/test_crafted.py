import pytest
import torch
from torch import Tensor

from selavi.config import Config
from selavi.encoders.crafted import crafted_features
from selavi.encoders.crafted.pictures import BINS, CELLS, oriented_gradients
from selavi.encoders.crafted.sound import BANDS

CRAFTED = crafted_features(Config())
NUM_GRADIENTS = CELLS * CELLS * BINS


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(2, 3, 1, 16, 16), (2, 3, 6, 48, 48), (2, 3, 30, 112, 112), (1, 3, 3, 50, 37)])
def test_pictures_of_any_size_become_315_numbers(shape: tuple[int, ...]) -> None:
    values = CRAFTED["video"](noise(*shape))
    assert values.shape == (shape[0], 315) and CRAFTED["video"].num_features == 315
    assert values.isfinite().all()


@pytest.mark.parametrize("shape", [(2, 1, 257, 99), (2, 1, 64, 92), (3, 1, 8, 1), (1, 1, 32, 31)])
def test_spectrograms_of_any_size_become_256_numbers(shape: tuple[int, ...]) -> None:
    values = CRAFTED["audio"](noise(*shape))
    assert values.shape == (shape[0], 256) and CRAFTED["audio"].num_features == 256
    assert values.isfinite().all()


def test_nothing_is_learned() -> None:
    for crafted in CRAFTED.values():
        assert not list(crafted.parameters()) and not list(crafted.buffers())


def test_a_clip_has_the_same_numbers_in_any_batch() -> None:
    clips = noise(5, 3, 2, 48, 48)
    whole = CRAFTED["video"](clips)
    torch.testing.assert_close(CRAFTED["video"](clips[3:4])[0], whole[3])


@pytest.mark.parametrize(("turned", "direction"), [(False, 0), (True, BINS // 2)])
def test_an_edge_counts_for_its_direction_alone(turned: bool, direction: int) -> None:
    planes = torch.zeros(1, 3, 48, 48)
    planes[..., 20:] = 1.0
    if turned:
        planes = planes.transpose(2, 3)
    by_direction = oriented_gradients(planes).view(BINS, CELLS, CELLS)
    assert by_direction[direction].max() > 1
    by_direction[direction] = 0
    assert by_direction.abs().max() < 1e-6


def test_gradients_do_not_see_brightness_and_hardly_see_contrast() -> None:
    planes = noise(2, 3, 48, 48)
    gradients = oriented_gradients(planes)
    torch.testing.assert_close(oriented_gradients(planes + 0.7), gradients, atol=1e-4, rtol=1e-4)
    assert (oriented_gradients(1.3 * planes) - gradients).norm() < 0.1 * gradients.norm()


def test_the_steepest_colour_decides() -> None:
    one = torch.zeros(1, 3, 48, 48)
    one[:, 1, :, 20:] = 1.0
    other = one.clone()
    other[:, 0, 20:, :] = 0.5
    chosen = oriented_gradients(other).view(BINS, CELLS, CELLS)[:, 0, 2]  # both edges cross no common cell here
    torch.testing.assert_close(chosen, oriented_gradients(one).view(BINS, CELLS, CELLS)[:, 0, 2])


def test_colours_are_those_of_the_ninths_of_the_frame() -> None:
    frames = torch.zeros(1, 3, 2, 48, 48)
    frames[:, 0, :, :16, :16] = 1.0
    colours = CRAFTED["video"](frames)[0, NUM_GRADIENTS:].view(3, 3, 3)
    assert colours[0, 0, 0] == 1 and colours.sum() == 1


def test_sound_has_the_same_timbre_whenever_it_begins() -> None:
    spectrogram = noise(2, 1, 64, 62)
    values = CRAFTED["audio"](spectrogram).view(2, 8, BANDS)
    rolled = CRAFTED["audio"](spectrogram.roll(10, 3)).view(2, 8, BANDS)  # five of 31 frames
    kept = [0, 1, 2]  # mean, deviation, maximum; then change, of which one step in thirty is another
    torch.testing.assert_close(rolled[:, kept], values[:, kept], atol=1e-5, rtol=1e-5)
    waves = CRAFTED["audio"](spectrogram)[:, 4 * BANDS :], CRAFTED["audio"](spectrogram.roll(10, 3))[:, 4 * BANDS :]
    torch.testing.assert_close(*waves, atol=1e-4, rtol=1e-4)


def test_a_rhythm_is_seen_in_its_own_wave_and_band() -> None:
    time = torch.arange(31) / 31
    spectrogram = torch.zeros(1, 1, BANDS, 31)
    spectrogram[0, 0, 7] = (2 * torch.pi * 3 * time).cos()
    waves = CRAFTED["audio"](spectrogram)[0, 4 * BANDS :].view(BANDS, 4)
    assert waves.argmax() == 7 * 4 + 2
    assert waves.sum() == pytest.approx(waves.max().item(), rel=1e-3)
