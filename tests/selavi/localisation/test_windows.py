"""Windows cover the picture, each is scored as a picture of its own, and the map is hot where the thing is."""

import re
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files
from typing import get_args, get_type_hints

import pytest
import torch
from torch import Tensor

from selavi.augment import Augment
from selavi.batch import NUM_DRAWS, ClipBatch
from selavi.commands.export import ExportArguments
from selavi.commands.localise import MAPS
from selavi.config import Config
from selavi.encoders.encoder import Encoder
from selavi.errors import UsageError
from selavi.heads import LinearHeads
from selavi.localisation.maps import GLOWS, MAP_KINDS
from selavi.localisation.windows import (
    PER_SIDE,
    Window,
    find_heard,
    find_in_windows,
    grid,
    heard_probabilities,
    spread,
    window_scores,
)
from selavi.model import SelaviModel
from tests.selavi.localisation.test_evidence import make


class Colours(Encoder):
    """The mean of each colour."""

    num_features = 3

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.mean((2, 3, 4))


def test_windows_reach_from_edge_to_edge_half_a_window_apart() -> None:
    windows = grid(50, 100)
    assert len(windows) == PER_SIDE**2 == 16
    assert windows[:4] == [Window(0, 20, left, left + 40) for left in (0, 20, 40, 60)]
    assert [window.top for window in windows[::4]] == [0, 10, 20, 30]
    for side in range(16, 200):  # decoded pictures have 16 pixels or more
        last = grid(side, side)[-1]
        assert last.bottom == last.right == side


def test_a_place_has_the_mean_of_the_windows_that_it_lies_in() -> None:
    generator = torch.Generator().manual_seed(0)
    height, width, size = 33, 64, (7, 11)
    windows = grid(height, width)
    scores = torch.randn(2, len(windows), generator=generator)
    found = spread(scores, windows, height, width, size)
    for row in range(size[0]):
        for column in range(size[1]):
            y, x = (row + 0.5) * height / size[0], (column + 0.5) * width / size[1]
            inside = [w.top <= y < w.bottom and w.left <= x < w.right for w in windows]
            torch.testing.assert_close(found[:, row, column], scores[:, torch.tensor(inside)].mean(1))
    with pytest.raises(ValueError, match="16 of 25 places lie in none of 1 windows"):
        spread(torch.ones(1, 1), [Window(0, 3, 0, 3)], 5, 5, (5, 5))


@pytest.mark.parametrize("source", ["joint", "concat"])
def test_a_window_is_scored_as_a_picture_of_its_own(tiny: Callable[..., Config], source: str) -> None:
    """By hand: the frames cut, enlarged, encoded; a head on all features gets a clip without sound."""
    config = tiny(f"labelling.source={source}")
    model, augment, batch = make(config)
    scores, windows = window_scores(model, augment, batch, 1, config)
    assert scores.shape == (3, 16, config.heads.num_clusters)
    for number in (0, 6, 15):
        top, bottom, left, right = windows[number]
        cut = {**batch.inputs, "video": batch.inputs["video"][:, :, top:bottom, left:right]}
        present = {"video": torch.ones(3, dtype=torch.bool), "audio": torch.zeros(3, dtype=torch.bool)}
        with torch.no_grad():
            logits = model(augment.plain(cut), present)
        own = logits["concat" if source == "concat" else "video"][1]
        torch.testing.assert_close(scores[:, number], own - own.mean(1, keepdim=True), rtol=1e-4, atol=1e-5)
    assert (scores.std(1) > 1e-3).any()


def test_the_map_is_hot_where_the_thing_is(tiny: Callable[..., Config]) -> None:
    """Red is cluster 0, green cluster 1: one picture has both, one neither, and one is not there."""
    config = tiny("modalities=[video]", "labelling.source=video", "heads.kind=linear")
    model, side = SelaviModel(config, {"video": Colours()}).eval(), config.video.decode_size
    heads = model.heads["video"]
    assert isinstance(heads, LinearHeads)
    heads.weight.data.zero_()
    heads.bias.data.zero_()
    heads.weight.data[:, :3] = torch.eye(3)
    frames = torch.full((3, config.video.num_frames, side, side, 3), 115, dtype=torch.uint8)
    frames[0::2, :, : side // 4, -side // 4 :, 0] = 255
    frames[0::2, :, -side // 4 :, : side // 4, 1] = 255
    present = {"video": torch.tensor([True, True, False])}
    batch = ClipBatch(torch.arange(3), {"video": frames}, present, torch.full((3, NUM_DRAWS), 0.5), [])
    red, green = (
        find_in_windows(model, Augment(config), batch, torch.full((3,), cluster), 0, config)["video"]
        for cluster in (0, 1)
    )
    size = config.video.size
    assert red.shape == green.shape == (3, 1, size, size)
    assert red[0, 0].max() == red[0, 0, 0, -1] > 0 and green[0, 0].max() == green[0, 0, -1, 0] > 0
    assert red[0, 0, 0, -1] > 2 * red[0, 0, size // 2, size // 2] and red[0, 0, -1, 0] < 0
    torch.testing.assert_close(red[1], red[1, :, :1, :1].expand_as(red[1]))  # the same everywhere
    assert not red[2].any()
    scores, windows = window_scores(model, Augment(config), batch, 0, config)
    torch.testing.assert_close(red[0, 0, 0, -1] * size**2, scores[0, PER_SIDE - 1, 0])  # in one window alone
    assert windows[PER_SIDE - 1].right == side


@pytest.mark.parametrize("source", ["joint", "concat"])
def test_what_is_heard_weights_the_clusters_of_windows(tiny: Callable[..., Config], source: str) -> None:
    """By hand: the clip with sound alone gives the weights, whatever its cluster; silence gives no map."""
    config = tiny(f"labelling.source={source}")
    model, augment, batch = make(config)
    present = {"video": torch.zeros(3, dtype=torch.bool), "audio": torch.ones(3, dtype=torch.bool)}
    with torch.no_grad():
        logits = model(augment.plain(batch.inputs), present)
    expected = logits["concat" if source == "concat" else "audio"][1].softmax(1)
    probabilities, has_sound = heard_probabilities(model, augment, batch, 1, config)
    torch.testing.assert_close(probabilities, expected, rtol=1e-4, atol=1e-5)
    assert has_sound.tolist() == batch.present["audio"].tolist()
    maps = find_heard(model, augment, batch, torch.tensor([0, 1, 2]), 1, config)["video"]
    of_clusters = [
        find_in_windows(model, augment, batch, torch.full((3,), cluster), 1, config)["video"]
        for cluster in range(config.heads.num_clusters)
    ]
    weighted = sum(weight[:, None, None, None] * each for weight, each in zip(expected.T, of_clusters, strict=True))
    torch.testing.assert_close(maps[has_sound], weighted[has_sound], rtol=1e-4, atol=1e-6)
    silent = replace(batch, present=batch.present | {"audio": torch.tensor([True, False, True])})
    maps = find_heard(model, augment, silent, torch.tensor([0, 1, 2]), 1, config)["video"]
    assert [bool(one.any()) for one in maps] == [True, False, True]


def test_a_head_that_hears_nothing_is_refused(tiny: Callable[..., Config]) -> None:
    seen = MAP_KINDS["heard"].read_for("video", tiny(), 0)
    assert seen == ("video", "audio") and MAP_KINDS["windows"].read_for("video", tiny(), 0) == ("video",)
    deaf = tiny("modalities=[video]", "labelling.source=video")
    with pytest.raises(UsageError, match="reads video, and hears nothing: choose another --head, or other --maps"):
        MAP_KINDS["heard"].read_for("video", deaf, 0)


def test_the_command_names_the_kinds_that_there_are() -> None:
    assert tuple(MAP_KINDS) == (*MAPS, "contrast-and-sound")
    assert len({kind.version for kind in MAP_KINDS.values()}) == len(MAP_KINDS)
    page = (files("selavi.results.gallery") / "templates" / "62-cluster.js").read_text(encoding="utf-8")
    in_gallery = get_args(get_type_hints(ExportArguments)["maps"])
    assert tuple(GLOWS) == in_gallery and set(GLOWS.values()) <= set(MAP_KINDS)
    for words, kinds in (("BOX_WORDS", MAPS), ("GLOW_WORDS", in_gallery)):  # the gallery has a word for each
        described = page[page.index(f"const {words}") :].partition("};")[0]
        assert set(re.findall(r"^  (\w+): ", described, re.M)) == set(kinds)
