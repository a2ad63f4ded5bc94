"""Sounding against silence, and features inside a map: by hand, on models whose answer is known."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from selavi.augment import Augment
from selavi.batch import NUM_DRAWS, ClipBatch
from selavi.config import Config
from selavi.encoders.encoder import Encoder
from selavi.heads import LinearHeads
from selavi.localisation.evidence import find_evidence, score_of
from selavi.localisation.moments import heard_modalities, shown_features, sounding
from selavi.model import SelaviModel
from tests.selavi.localisation.test_evidence import make


class TwoBands(Encoder):
    """The mean log-mel power of the lower and of the upper half of the bands, in nepers above 1e-6."""

    num_features = 2

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.unflatten(2, (2, -1)).mean((1, 3, 4)) - torch.tensor(1e-6).log()


def tones(loudness: list[float], hertz: float) -> Tensor:
    """(B, 8000) int16: a second of a tone."""
    wave = torch.sin(torch.arange(8000) * (2 * torch.pi * hertz / 8000))
    return (torch.tensor(loudness)[:, None] * 30000 * wave).round().short()


def heard(config: Config, waveforms: Tensor, clusters: list[int]) -> list[float]:
    """What a model says that gives cluster 0 to low sounds and cluster 1 to high ones."""
    model = SelaviModel(config, {"audio": TwoBands()}).eval()
    heads = model.heads["audio"]
    assert isinstance(heads, LinearHeads)
    heads.weight.data.zero_()
    heads.weight.data[:, :2] = torch.eye(2)
    present = {"audio": torch.ones(len(waveforms), dtype=torch.bool)}
    draws = torch.full((len(waveforms), NUM_DRAWS), 0.5)
    batch = ClipBatch(torch.arange(len(waveforms)), {"audio": waveforms}, present, draws, [])
    return sounding(model, Augment(config), batch, torch.tensor(clusters), 0, config).tolist()


def test_silence_says_nothing_and_the_right_sound_the_more_the_louder(tiny: Callable[..., Config]) -> None:
    config = tiny("modalities=[audio]", "audio.standardise=none", "heads.kind=linear", "labelling.source=audio")
    silence, soft, loud = heard(config, tones([0, 0.01, 0.9], 200), [0, 0, 0])
    assert silence == 0
    assert 0 < soft < loud
    wrong, high = heard(config, torch.cat([tones([0.9], 200), tones([0.9], 3000)]), [1, 1])
    assert wrong < 0 < high


@pytest.mark.parametrize("source", ["joint", "concat"])
def test_only_the_sound_counts(tiny: Callable[..., Config], source: str) -> None:
    """By hand, from whole windows with and without their sound; a window that has none says nothing."""
    config = tiny(f"labelling.source={source}")
    model, augment, batch = make(config)
    batch.inputs["audio"][1] = 0
    batch.present["audio"][2] = False
    clusters = torch.tensor([3, 5, 6])
    got = sounding(model, augment, batch, clusters, 1, config)
    silent = {**batch.inputs, "audio": torch.zeros_like(batch.inputs["audio"])}
    with torch.no_grad():
        both = [model(augment.plain(inputs), batch.present) for inputs in (batch.inputs, silent)]
    own, none = (sum(score_of(logits[1], clusters[:, None]) for logits in branches.values()) for branches in both)
    assert got[1] == 0 and got[2].isnan() and abs(float(got[0])) > 1e-3
    torch.testing.assert_close(got[0], (own - none)[0], rtol=1e-3, atol=1e-4)


def test_a_head_that_hears_nothing_has_nothing_to_say(tiny: Callable[..., Config]) -> None:
    config = tiny("modalities=[video]", "labelling.source=video")
    model, augment, batch = make(config)
    assert heard_modalities(config, 0) == []
    assert sounding(model, augment, batch, torch.tensor([1, 2, 3]), 0, config).isnan().all()


def test_features_inside_a_map_are_those_where_it_is_hot(tiny: Callable[..., Config]) -> None:
    config = tiny("video.size=64", "video.decode_size=64", "video.num_frames=6")
    model, augment, batch = make(config)
    outputs: list[Tensor] = []
    model.encoders["video"].layer4.register_forward_hook(lambda _, __, output: outputs.append(output.detach()))
    maps = find_evidence(model, augment, batch, torch.tensor([1, 2, 3]), 0, config)["video"]
    assert maps.shape[2] == 2 * outputs[0].shape[3]  # two cells of the map for each of the last one
    hot = torch.full_like(maps, -1.0)
    hot[:, :, 2, 5] = 4
    hot[:, -1] = 1
    inside, whole = shown_features(model, augment, batch, hot, torch.tensor([0.0, 0.1, 1.0]))
    for row in range(2):
        torch.testing.assert_close(inside[row], outputs[0][row, :, 0, 1, 2])
        torch.testing.assert_close(whole[row], outputs[0][row, :, 0].mean((1, 2)))
    torch.testing.assert_close(inside[2], outputs[0][2, :, -1].mean((1, 2)))  # hot all over at the end
    cold, _ = shown_features(model, augment, batch, -torch.ones_like(maps), torch.tensor([0.0, 0.1, 1.0]))
    assert cold.isnan().all()
    assert not torch.allclose(inside[0], whole[0])
