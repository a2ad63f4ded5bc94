import math

import pytest
import torch
from torch import Tensor

from selavi.labelling.scores import combine_scores
from selavi.labelling.solver.transport import assign


def log_table(seed: int, num_clips: int = 20, num_clusters: int = 5) -> Tensor:
    return torch.randn(num_clips, num_clusters, generator=torch.Generator().manual_seed(seed)).log_softmax(1)


def everywhere(num_clips: int = 20) -> Tensor:
    return torch.ones(num_clips, dtype=torch.bool)


def test_two_equal_weights_give_the_geometric_mean_of_the_paper() -> None:
    video, audio = log_table(0).double(), log_table(1).double()
    present = {"video": everywhere(), "audio": everywhere()}
    for weight in (1.0, 0.5):
        scores = combine_scores({"video": video, "audio": audio}, {"video": weight, "audio": weight}, present)
        torch.testing.assert_close(scores, (video.exp() * audio.exp()).sqrt().log())
        # P ** (lambda / 2) of the official code is exp(lambda * scores).
        torch.testing.assert_close((20 * scores).exp(), (video.exp() * audio.exp()) ** 10)


def test_weights_are_relative() -> None:
    video, audio = log_table(0), log_table(1)
    scores = combine_scores(
        {"video": video, "audio": audio},
        {"video": 3.0, "audio": 1.0},
        {"video": everywhere(), "audio": everywhere()},
    )
    torch.testing.assert_close(scores, 0.75 * video + 0.25 * audio)


def test_one_modality_scores_itself() -> None:
    video = log_table(0)
    torch.testing.assert_close(combine_scores({"video": video}, {"video": 2.0}, {"video": everywhere()}), video)


@pytest.mark.parametrize("filler", [0.0, math.nan, -math.inf])
def test_a_missing_modality_weighs_nothing(filler: float) -> None:
    video, audio = log_table(0), log_table(1)
    has_video, has_audio = everywhere(), everywhere()
    has_audio[:8], has_video[6:10] = False, False
    video[~has_video], audio[~has_audio] = filler, filler
    scores = combine_scores(
        {"video": video, "audio": audio},
        {"video": 1.0, "audio": 1.0},
        {"video": has_video, "audio": has_audio},
    )
    torch.testing.assert_close(scores[:6], video[:6])
    assert scores[6:8].tolist() == [[0.0] * 5] * 2  # neither: every cluster is as good
    torch.testing.assert_close(scores[8:10], audio[8:10])
    torch.testing.assert_close(scores[10:], (video[10:] + audio[10:]) / 2)
    found = assign(scores, torch.full((5,), 0.2))
    assert found.converged


def test_a_weight_of_zero_leaves_the_modality_out() -> None:
    video, audio = log_table(0), torch.full((20, 5), math.nan)
    has_video = everywhere()
    has_video[3] = False
    scores = combine_scores(
        {"video": video, "audio": audio},
        {"video": 1.0, "audio": 0.0},
        {"video": has_video, "audio": everywhere()},
    )
    torch.testing.assert_close(scores[has_video], video[has_video])
    assert scores[3].tolist() == [0.0] * 5


def test_an_impossible_cluster_stays_impossible() -> None:
    video, audio = log_table(0), log_table(1)
    video[2, 3] = -math.inf
    scores = combine_scores(
        {"video": video, "audio": audio},
        {"video": 1.0, "audio": 1.0},
        {"video": everywhere(), "audio": everywhere()},
    )
    assert scores[2, 3] == -math.inf
    assert scores.isfinite().sum() == scores.numel() - 1


def test_half_precision_is_combined_in_float32() -> None:
    table = log_table(0).half()
    scores = combine_scores({"video": table}, {"video": 1.0}, {"video": everywhere()})
    assert scores.dtype == torch.float32
    assert torch.equal(scores, table.float())


def test_the_tables_are_left_alone() -> None:
    video, audio = log_table(0), log_table(1)
    kept = video.clone(), audio.clone()
    combine_scores(
        {"video": video, "audio": audio},
        {"video": 1.0, "audio": 1.0},
        {"video": everywhere(), "audio": everywhere()},
    )
    assert torch.equal(kept[0], video)
    assert torch.equal(kept[1], audio)


@pytest.mark.parametrize(
    ("tables", "weights", "present", "message"),
    [
        ({}, {}, {}, "at least one"),
        ({"video": log_table(0)}, {"audio": 1.0}, {"video": everywhere()}, "same modalities.*audio"),
        ({"video": log_table(0)}, {"video": 1.0}, {}, "same modalities"),
        ({"video": log_table(0)}, {"video": 0.0}, {"video": everywhere()}, "not all 0"),
        ({"video": log_table(0)}, {"video": -1.0}, {"video": everywhere()}, "not negative"),
        ({"video": log_table(0)}, {"video": math.nan}, {"video": everywhere()}, "finite"),
        ({"video": log_table(0)[0]}, {"video": 1.0}, {"video": everywhere()}, r"\(N, K\)"),
        ({"video": log_table(0)}, {"video": 1.0}, {"video": everywhere(19)}, r"\(20,\) bool.*\(19,\)"),
        ({"video": log_table(0)}, {"video": 1.0}, {"video": torch.ones(20)}, "bool.*float32"),
        (
            {"video": log_table(0), "audio": log_table(0, 20, 6)},
            {"video": 1.0, "audio": 1.0},
            {"video": everywhere(), "audio": everywhere()},
            r"\(20, 5\), audio: \(20, 6\)",
        ),
    ],
)
def test_unusable_input_is_refused(tables: dict, weights: dict, present: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        combine_scores(tables, weights, present)
