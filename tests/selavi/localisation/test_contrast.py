"""Maps point at what stands out of the picture, in space or in time, however it is turned."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from selavi.augment import Augment
from selavi.batch import NUM_DRAWS, ClipBatch
from selavi.config import Config
from selavi.encoders.encoder import Encoder
from selavi.localisation import contrast
from selavi.localisation.contrast import find_contrast, find_contrast_and_sound
from selavi.localisation.evidence import find_evidence, maps_of_stages
from selavi.model import SelaviModel
from tests.selavi.localisation.test_evidence import make


class Colours(Encoder):
    """Stages of colours: every pixel, and every second of them."""

    num_features = 3
    stages = ("fine", "coarse")

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = nn.Identity(), nn.AvgPool3d(1, (1, 2, 2))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.coarse(self.fine(inputs)).mean((2, 3, 4))


def batch_of(frames: Tensor, present: list[bool] | None = None) -> ClipBatch:
    rows = len(frames)
    has_picture = torch.tensor(present or [True] * rows)
    return ClipBatch(
        torch.arange(rows), {"video": frames}, {"video": has_picture}, torch.full((rows, NUM_DRAWS), 0.5), []
    )


def maps_of(model: SelaviModel, augment: Augment, batch: ClipBatch, config: Config) -> Tensor:
    return find_contrast(model, augment, batch, torch.zeros(len(batch.index)), 0, config)["video"]


@pytest.mark.parametrize("corner", range(4))
def test_a_map_points_at_what_differs(tiny: Callable[..., Config], corner: int) -> None:
    """A coloured square on noise; each picture's map adds up to 1, and a clip without a picture has none."""
    config = tiny("modalities=[video]", "labelling.source=video")
    model, augment = SelaviModel(config, {"video": Colours()}).eval(), Augment(config)
    side, size = config.video.decode_size, config.video.size
    generator = torch.Generator().manual_seed(0)
    shape = (2, config.video.num_frames, side, side, 3)
    frames = torch.randint(90, 110, shape, generator=generator, dtype=torch.uint8)
    top, left = (place * (side - side // 4) for place in divmod(corner, 2))
    frames[:, :, top : top + side // 4, left : left + side // 4, 0] = 250
    maps = maps_of(model, augment, batch_of(frames, [True, False]), config)
    assert maps.shape == (2, config.video.num_frames, size, size) and not maps[1].any()
    torch.testing.assert_close(maps[0].sum((1, 2)), torch.ones(config.video.num_frames))
    top, left = (place * (size - size // 4) for place in divmod(corner, 2))
    inside = maps[0, :, top : top + size // 4, left : left + size // 4]
    assert (inside.sum((1, 2)) > 0.5).all()
    assert (inside.amax((1, 2)) == maps[0].amax((1, 2))).all()


def test_turned_pictures_have_turned_maps(tiny: Callable[..., Config]) -> None:
    """Also with filters that tell left from right, as those of a random model do."""
    config = tiny("modalities=[video]", "labelling.source=video")
    model, augment, batch = make(config)
    maps = maps_of(model, augment, batch, config)
    assert maps.std() > 0
    for axes in ((2,), (3,), (2, 3)):
        turned = maps_of(model, augment, batch_of(batch.inputs["video"].flip(axes)), config)
        torch.testing.assert_close(turned, maps.flip(axes), rtol=1e-3, atol=1e-6)


def test_in_the_gallery_contrast_lies_on_pictures_and_evidence_on_the_sound(tiny: Callable[..., Config]) -> None:
    config = tiny()
    model, augment, batch = make(config)
    clusters = torch.zeros(len(batch.index), dtype=torch.long)
    maps = find_contrast_and_sound(model, augment, batch, clusters, 0, config)
    assert maps.keys() == {"video", "audio"}
    assert torch.equal(maps["video"], find_contrast(model, augment, batch, clusters, 0, config)["video"])
    assert torch.equal(maps["audio"], find_evidence(model, augment, batch, clusters, 0, config)["audio"])
    deaf = tiny("modalities=[video]", "labelling.source=video")
    model, augment, batch = make(deaf)
    assert find_contrast_and_sound(model, augment, batch, clusters, 0, deaf).keys() == {"video"}


def moving_square(config: Config, background: Tensor) -> tuple[Tensor, Tensor]:
    """(1, T, S, S, 3) a grey square that moves to the right before a background (S, S, 3), and (T, S, S) its place."""
    side = config.video.decode_size
    frames = background.expand(1, config.video.num_frames, -1, -1, -1).clone()
    where = torch.zeros(frames.shape[1:4], dtype=torch.bool)
    for number in range(config.video.num_frames):
        left = number * (side - side // 4) // config.video.num_frames
        where[number, side // 3 : side // 3 + side // 4, left : left + side // 4] = True
    frames[0][where] = 128
    return frames, where


def share_inside(maps: Tensor, where: Tensor) -> Tensor:
    """(T,) share of a clip's map (1, T, h, w) that lies where something is, by frame."""
    size = maps.shape[2:]
    truth = torch.nn.functional.interpolate(where[:, None].float(), tuple(size))[:, 0]
    return (maps[0] * truth).sum((1, 2)) / maps[0].sum((1, 2))


def test_before_a_motley_background_what_moves_stands_out(
    tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every place differs from the rest there, and none but the square's own changes."""
    config = tiny("modalities=[video]", "labelling.source=video", "video.num_frames=6")
    model, augment = SelaviModel(config, {"video": Colours()}).eval(), Augment(config)
    side = config.video.decode_size
    generator = torch.Generator().manual_seed(0)
    motley = torch.randint(0, 256, (side // 4, side // 4, 3), generator=generator, dtype=torch.uint8)
    frames, where = moving_square(config, motley.repeat_interleave(4, 0).repeat_interleave(4, 1))
    maps = maps_of(model, augment, batch_of(frames), config)
    torch.testing.assert_close(maps.sum((2, 3)).mean(1), torch.ones(1))
    in_space = share_of_space(monkeypatch, model, augment, frames, config, where)
    assert (share_inside(maps, where) > 2 * in_space).all()


def share_of_space(
    monkeypatch: pytest.MonkeyPatch,
    model: SelaviModel,
    augment: Augment,
    frames: Tensor,
    config: Config,
    where: Tensor,
) -> Tensor:
    """As share_inside, of maps that do not look at time."""
    with monkeypatch.context() as patched:
        patched.setattr(contrast, "MIN_FRAMES", config.video.num_frames + 1)
        return share_inside(maps_of(model, augment, batch_of(frames), config), where)


def test_in_a_still_scene_the_same_stands_out(tiny: Callable[..., Config]) -> None:
    """Also with a little noise in each frame: what changes then is no thing."""
    config = tiny("modalities=[video]", "labelling.source=video", "video.num_frames=6")
    model, augment = SelaviModel(config, {"video": Colours()}).eval(), Augment(config)
    side = config.video.decode_size
    frames, where = moving_square(config, torch.full((side, side, 3), 20, dtype=torch.uint8))
    frames, where = frames[:, 2:3].repeat(1, 6, 1, 1, 1), where[2:3].repeat(6, 1, 1)
    generator = torch.Generator().manual_seed(0)
    noisy = frames + torch.randint(0, 4, frames.shape, generator=generator, dtype=torch.uint8)
    for one in (frames, noisy):
        maps = maps_of(model, augment, batch_of(one), config)[0]
        truth = torch.nn.functional.interpolate(where[:, None].float(), tuple(maps.shape[1:]))[:, 0] > 0
        largest = maps.flatten(1).topk(int(truth[0].sum()) // 2, 1).indices
        assert truth.flatten(1).gather(1, largest).all()
        assert maps[truth].mean() > 5 * maps[~truth].mean()


def test_a_batch_of_sounds_alone_has_maps_of_zeros(tiny: Callable[..., Config]) -> None:
    """Windows of the gallery's sounds have no picture; so may all of a batch."""
    config = tiny("modalities=[video]", "labelling.source=video")
    model, augment, batch = make(config)
    maps = maps_of(model, augment, batch_of(batch.inputs["video"], [False] * 3), config)
    assert maps.shape == (3, config.video.num_frames, config.video.size, config.video.size) and not maps.any()


def test_two_frames_are_looked_at_one_by_one(tiny: Callable[..., Config]) -> None:
    config = tiny("modalities=[video]", "labelling.source=video", "video.num_frames=2")
    model, augment, batch = make(config)
    frames = batch.inputs["video"].clone()
    frames[:, 0] = 0
    whole, changed = (maps_of(model, augment, batch_of(one), config) for one in (batch.inputs["video"], frames))
    torch.testing.assert_close(whole[:, 1:], changed[:, 1:], rtol=1e-3, atol=1e-6)


def test_a_picture_that_is_the_same_all_over_has_an_even_map(tiny: Callable[..., Config]) -> None:
    """No place differs from the rest, so none stands out."""
    config = tiny("modalities=[video]", "labelling.source=video")
    model, augment = SelaviModel(config, {"video": Colours()}).eval(), Augment(config)
    side = config.video.decode_size
    frames = torch.full((1, config.video.num_frames, side, side, 3), 77, dtype=torch.uint8)
    maps = maps_of(model, augment, batch_of(frames), config)
    np.testing.assert_allclose(maps.numpy(), 1 / config.video.size**2, rtol=1e-2)


def test_stages_with_places_enough_are_read_or_else_the_first() -> None:
    encoder, inputs = Colours(), torch.zeros(1, 3, 1, 10, 12)
    assert {least: [*maps_of_stages("video", encoder, inputs, least)] for least in (5, 6, 10, 11)} == {
        5: ["fine", "coarse"],
        6: ["fine"],
        10: ["fine"],
        11: ["fine"],
    }
