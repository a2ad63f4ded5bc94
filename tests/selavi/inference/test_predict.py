"""Clusters of views: averaged over views and modalities, and what each modality says alone."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from selavi.batch import NUM_DRAWS, ClipBatch
from selavi.config import Config, HeadsConfig, LabellingConfig
from selavi.errors import DataError
from selavi.inference.predict import predict, predict_batch
from selavi.labelling.rule import LabelRule


class FakeModel:
    """Logits that are the batch's video and audio themselves, (B, K) for one head."""

    num_features: ClassVar = {"video": 3, "audio": 3}

    def __init__(self) -> None:
        self.encoded: list[str] = []
        self.encoders = {name: partial(self.encode, name) for name in ("video", "audio")}

    def parameters(self) -> Iterator[Tensor]:
        return iter([torch.zeros(1)])

    def encode(self, name: str, values: Tensor) -> Tensor:
        self.encoded.append(name)
        return values

    def join(self, features: Mapping[str, Tensor], present: Mapping[str, Tensor]) -> tuple[Any, Any]:
        return features, present

    def logits(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: values[None] for name, values in features.items()}


def run(video: list[list[float]], audio: list[list[float]], *, has_audio: list[bool], num_views: int, **kw: Any) -> Any:
    num_views_in_all = len(video)
    batch = ClipBatch(
        torch.arange(num_views_in_all // num_views).repeat_interleave(num_views),
        {"video": torch.tensor(video), "audio": torch.tensor(audio)},
        {"video": torch.tensor(kw.get("has_video", [True] * num_views_in_all)), "audio": torch.tensor(has_audio)},
        torch.zeros(num_views_in_all, NUM_DRAWS),
        kw.get("errors", []),
    )
    config = Config(
        heads=HeadsConfig(num_heads=1, num_clusters=3), labelling=LabellingConfig(head_groups=1, sharpness=2.0)
    )
    rule = LabelRule(torch.tensor([kw.get("potentials", [0.0, 0.0, 0.0])], dtype=torch.float64))
    model: Any = kw.get("model", FakeModel())
    augment: Any = lambda batch, random: batch.inputs  # noqa: E731
    if "num_nearest" in kw:
        wanted = {name: kw[name] for name in ("num_nearest", "sharpness") if name in kw}
        return predict_batch(model, augment, batch, num_views, config, rule, **wanted)
    return predict(model, augment, [batch], num_views_in_all // num_views, num_views, config, rule)


def test_views_and_modalities_are_averaged_and_each_modality_is_also_asked_alone() -> None:
    # The mean over the views: video 0 and 1 alike, a little of 1; audio for 2 a little. Together 1.
    video = [[2.0, 2.5, 0.0], [2.0, 2.0, 0.0]]
    audio = [[0.0, 3.0, 3.1], [0.0, 3.0, 3.1]]
    found = run(video, audio, has_audio=[True, True], num_views=2)
    assert found.clusters.tolist() == [[1]]
    assert {name: clusters.tolist() for name, clusters in found.by_modality.items()} == {"video": [[1]], "audio": [[2]]}


def test_potentials_count_for_all_and_a_missing_modality_says_nothing() -> None:
    video, audio = [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], [[0.0, 0.0, 9.0], [0.0, 0.0, 9.0]]
    found = run(video, audio, has_audio=[False, True], num_views=1, potentials=[0.0, 5.0, 0.0])
    assert found.clusters.tolist() == [[1], [2]]  # 2 * 1 < 5; 2 * (9 - 1) / 2 > 5
    assert found.by_modality["audio"].tolist() == [[-1], [2]]
    assert found.by_modality["video"].tolist() == [[1], [1]]


def test_clips_that_could_not_be_decoded_are_left_out_and_none_at_all_is_an_error() -> None:
    rows = {"video": [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], "audio": [[0.0] * 3] * 2}
    found = run(**rows, has_audio=[False] * 2, has_video=[False, True], num_views=1, errors=[(0, "corrupt")])
    assert (found.rows.tolist(), found.clusters.tolist(), found.errors) == ([1], [[1]], {0: "corrupt"})
    assert found.by_modality["video"].tolist() == [[1]]
    with pytest.raises(DataError, match="none of the 2 clips could be decoded; the first: corrupt"):
        run(**rows, has_audio=[False] * 2, has_video=[False] * 2, num_views=1, errors=[(0, "corrupt"), (1, "x")])


def test_the_nearest_clusters_are_those_of_the_row_that_gave_the_cluster() -> None:
    video = [[1.0, 0.5, 0.0]]
    found = run(video, video, has_audio=[True], num_views=1, num_nearest=2, potentials=[0.0, 3.0, 0.0])
    row = torch.tensor([2.0, 1.0 + 3.0, 0.0]).softmax(0)  # sharpness 2
    assert (found.clusters.tolist(), found.nearest.tolist()) == ([[1]], [[[0, 2]]])
    torch.testing.assert_close(found.probabilities[0, 0], row[[0, 2]])
    torch.testing.assert_close(found.statistics[0, 0, 0], row[1])
    plain = run(video, video, has_audio=[True], num_views=1, num_nearest=1, sharpness=1.0)
    assert (plain.clusters.tolist(), plain.nearest.tolist()) == ([[0]], [[[1]]])
    torch.testing.assert_close(plain.statistics[0, 0, 0], torch.tensor([1.0, 0.5, 0.0]).softmax(0)[0])


def test_a_modality_that_no_clip_of_a_batch_has_is_not_encoded() -> None:
    video, audio = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[0.0, 0.0, 9.0], [0.0, 9.0, 0.0]]
    model = FakeModel()
    found = run(video, audio, has_audio=[True] * 2, has_video=[False] * 2, num_views=1, num_nearest=0, model=model)
    assert (model.encoded, found.clusters.tolist(), found.has_evidence.tolist()) == (
        ["audio"],
        [[2], [1]],
        [[True], [True]],
    )
    assert found.features["video"].abs().max() == 0
    assert not run(
        video, audio, has_audio=[False, True], has_video=[False] * 2, num_views=1, num_nearest=0
    ).has_evidence[0]
