from collections.abc import Sequence

import numpy as np
import pytest

from selavi.randomness import mix
from selavi.scores import num_clusters
from selavi.scores.num_clusters import stability, suggest_k

MODALITIES = ("video", "audio")


def clips(
    num_groups: int, num_clips: int, *, noise: float = 0.8, names: Sequence[str] = MODALITIES, private: int = 0
) -> dict[str, np.ndarray]:
    """Features of clips of some groups that all modalities hear and see, and of `private` groups of each alone."""
    generator = np.random.default_rng(mix(num_groups, num_clips, private))
    groups = generator.integers(num_groups, size=num_clips)
    features = {}
    for name in names:
        values = generator.normal(size=(num_groups, 32))[groups] + noise * generator.normal(size=(num_clips, 32))
        if private:
            values += 2 * generator.normal(size=(private, 32))[generator.integers(private, size=num_clips)]
        features[name] = values.astype(np.float16)
    return features


@pytest.mark.parametrize(("num_groups", "around"), [(5, 8), (8, 8), (14, 10)])
def test_the_number_of_shared_groups_is_suggested(num_groups: int, around: int) -> None:
    suggestion = suggest_k(clips(num_groups, 40 * num_groups), around)
    assert suggestion.num_clusters == num_groups
    assert suggestion.judged_by == "modalities"
    assert max(suggestion.as_good) == num_groups
    assert suggestion.agreement > 0.9
    assert not suggestion.at_end


def test_one_modality_is_judged_by_halves() -> None:
    suggestion = suggest_k(clips(6, 400, noise=0.5, names=["audio"]), 6)
    assert (suggestion.num_clusters, suggestion.judged_by) == (6, "halves")
    assert not suggestion.tried[0].modalities.size


def test_groups_of_one_modality_alone_do_not_count() -> None:
    features = clips(6, 500, names=["video"]) | clips(5, 500, names=["audio"])  # other groups, drawn apart
    suggestion = suggest_k(features, 6)
    assert suggestion.judged_by == "halves"
    assert all(abs(one.modalities.mean()) < 0.05 for one in suggestion.tried)


def test_noise_is_not_called_stable() -> None:
    generator = np.random.default_rng(0)
    features = {name: generator.normal(size=(300, 16)).astype(np.float32) for name in MODALITIES}
    suggestion = suggest_k(features, 6)
    assert suggestion.agreement < 0.3


def test_a_number_beyond_the_range_is_said_to_lie_at_its_end() -> None:
    suggestion = suggest_k(clips(24, 720), 4)
    assert suggestion.num_clusters == max(one.num_clusters for one in suggestion.tried) == 12
    assert suggestion.at_end


def test_clips_without_a_modality_are_left_out_and_counted() -> None:
    features = clips(5, 300)
    features["audio"][:40] = 0
    suggestion = suggest_k(features, 5)
    assert (suggestion.num_clips, suggestion.num_left_out) == (260, 40)
    assert suggestion.num_clusters == 5


def test_many_clips_are_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(num_clusters, "MAX_CLIPS", 250)
    suggestion = suggest_k(clips(5, 600), 5)
    assert (suggestion.num_clips, suggestion.num_left_out) == (250, 350)
    assert suggestion.num_clusters == 5
    assert max(one.num_clusters for one in suggestion.tried) <= 12  # ten clips a cluster in each half


def test_the_same_seed_suggests_the_same() -> None:
    features = clips(4, 200, noise=2.0)
    first, second = suggest_k(features, 4, seed=3), suggest_k(features, 4, seed=3)
    assert [one.modalities.tolist() for one in first.tried] == [one.modalities.tolist() for one in second.tried]


def test_too_few_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="39 clips have every modality; 40 at least are needed"):
        suggest_k(clips(3, 39), 3)


def test_more_clusters_than_half_of_the_clips_are_refused() -> None:
    with pytest.raises(ValueError, match="expected 2 to 25 clusters for halves of 50 clips"):
        stability(clips(3, 50), 26)
