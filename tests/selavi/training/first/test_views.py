from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from selavi.augment import Augment
from selavi.batch import NUM_DRAWS, ClipBatch
from selavi.config import load_config
from selavi.encoders.crafted import crafted_features
from selavi.encoders.encoder import Encoder
from selavi.randomness import uniforms
from selavi.training.first.views import (
    NUM_VIEWS,
    CachedViews,
    affordable_views,
    craft_views,
    passes_to_read,
    standardise,
)

CPU = torch.device("cpu")
N, SECOND = 6, 2048
SETTINGS = ["data.clip_s=0.256", "video.num_frames=2", "video.size=24", "audio.sample_rate=8000", "audio.num_mels=32"]
SETTINGS += ["audio.num_fft=256", "audio.window_s=0.032", "audio.mask_time=0.3"]

CRAFTED: dict[str, Encoder] = crafted_features(load_config(None, SETTINGS))
SOUND = {"audio": CRAFTED["audio"]}


def read(pass_number: int, batch_size: int = 4) -> Iterator[ClipBatch]:
    """N clips of noise, whose numbers for the augmentation belong to the pass; the last one has no sound."""
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (N, 2, 32, 32, 3), dtype=torch.uint8, generator=generator)
    sound = torch.randint(-9000, 9000, (N, SECOND), dtype=torch.int16, generator=generator)
    draws = torch.from_numpy(uniforms(3, "label", pass_number, [str(row) for row in range(N)], NUM_DRAWS)).float()
    for rows in torch.arange(N).split(batch_size):
        present = {"video": torch.ones(len(rows), dtype=torch.bool), "audio": rows < N - 1}
        yield ClipBatch(rows, {"video": frames[rows], "audio": sound[rows]}, present, draws[rows], [])


def views_of(num_views: int = 4, num_passes: int = 2, batch_size: int = 4) -> CachedViews:
    augment = Augment(load_config(None, SETTINGS))
    return craft_views(CRAFTED, N, num_views, num_passes, lambda number: read(number, batch_size), augment, CPU)


def test_views_of_a_clip_differ_and_are_the_same_in_any_batch() -> None:
    views = views_of()
    assert views.num_views == 4
    assert views.index.tolist() == list(range(N))
    for name in ("video", "audio"):
        assert views.features[name].shape == (4, N, CRAFTED[name].num_features)
        several = views.features[name].float()
        assert all((one - other).abs().max() > 0.1 for number, one in enumerate(several) for other in several[:number])
        torch.testing.assert_close(views_of(batch_size=1).features[name], views.features[name], atol=2e-2, rtol=0)


def test_only_passes_below_zero_are_read() -> None:
    numbers = []

    def noted(number: int) -> Iterator[ClipBatch]:
        numbers.append(number)
        return read(number)

    craft_views(SOUND, N, 5, 3, noted, Augment(load_config(None, SETTINGS)), CPU)
    assert numbers == [-1, -2, -3]


def test_what_is_missing_is_zero_and_does_not_count() -> None:
    views = views_of()
    assert views.present["audio"].tolist() == [[True] * 5 + [False]] * 4
    assert (views.features["audio"][:, -1] == 0).all()
    values = views.features["audio"][:, :-1].flatten(0, 1).float()
    changing = values.std(0) > 0
    torch.testing.assert_close(values.mean(0), torch.zeros(256), atol=2e-2, rtol=0)
    assert changing.sum() > 200
    torch.testing.assert_close(values[:, changing].square().mean(0), torch.ones(int(changing.sum())), atol=2e-2, rtol=0)


def test_numbers_that_never_change_become_zero() -> None:
    features = torch.tensor([[[-36.0, 1.0], [-36.0, 3.0]]], dtype=torch.float16)
    standardise(features, torch.ones(1, 2, dtype=torch.bool), CPU)
    assert features.tolist() == [[[0.0, -1.0], [0.0, 1.0]]]


def test_no_clip_with_the_modality_is_no_fault() -> None:
    features = torch.ones(2, 3, 4, dtype=torch.float16)
    standardise(features, torch.zeros(2, 3, dtype=torch.bool), CPU)
    assert (features == 0).all()


def test_a_view_of_each_clip_is_taken() -> None:
    views = views_of()
    clips = views.take(torch.tensor([3, 0]), torch.tensor([1, 5]), CPU)
    assert clips.index.tolist() == [1, 5]
    assert clips.present["audio"].tolist() == [True, False]
    assert torch.equal(clips.features["video"][0], views.features["video"][3, 1].float())


@pytest.mark.parametrize(("memory_gb", "expected"), [(10, NUM_VIEWS), (8, 6), (0.1, 1)])
def test_views_are_as_many_as_memory_holds(memory_gb: float, expected: int) -> None:
    assert affordable_views(1_000_000, CRAFTED, memory_gb) == expected


@pytest.mark.parametrize(
    ("passes_of_run", "num_views", "expected"), [(135, 8, 3), (20, 8, 2), (9000, 8, 8), (20, 1, 1)]
)
def test_clips_are_read_a_fiftieth_as_often_as_in_the_run(passes_of_run: int, num_views: int, expected: int) -> None:
    assert passes_to_read(passes_of_run, num_views) == expected


def test_the_draws_stay_in_their_range(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, batch: ClipBatch, random: bool) -> dict[str, Tensor]:
            seen.append(batch.draws)
            return {"audio": torch.zeros(len(batch.index), 1, 32, 31)}

    craft_views(SOUND, N, 8, 2, read, Spy(), CPU)  # type: ignore[arg-type]
    draws = torch.cat(seen)
    assert draws.min() >= 0 and draws.max() < 1
    assert len(draws.unique(dim=0)) == 8 * N
