from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from selavi.augment import Augment
from selavi.batch import NUM_DRAWS, ClipBatch
from selavi.config import Config
from selavi.errors import DataError, UsageError
from selavi.evaluation.probes import check_request, probe_clips, probe_features
from selavi.inference.encode import ClipFeatures, average_views, combinations_of, encode_clips
from selavi.model import SelaviModel


def blobs(num: int, spread: float, seed: int) -> tuple[Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    classes = np.arange(num) % 4
    centres = np.eye(4, 8)[classes] * 5
    return torch.from_numpy(centres + rng.normal(0, spread, centres.shape)).float(), classes


def held_out(num: int) -> np.ndarray:
    return np.arange(num) % 5 == 0


def test_features_that_tell_the_class_score_1() -> None:
    (train, train_classes), (test, test_classes) = blobs(100, 0.3, 0), blobs(40, 0.3, 1)
    found = probe_features(train, train_classes, held_out(100), test, test_classes)
    assert found["knn"] == found["linear"] == found["R@1"] == found["R@50"] == 1.0
    assert (found["train"], found["held_out"], found["test"], found["classes"]) == (100, 20, 40, 4)


def test_features_that_tell_nothing_score_chance() -> None:
    rng = np.random.default_rng(0)
    train, test = (torch.from_numpy(rng.normal(size=(num, 8))).float() for num in (400, 400))
    classes = np.arange(400) % 4
    found = probe_features(train, classes, held_out(400), test, classes)
    assert found["knn"] == pytest.approx(0.25, abs=0.1)
    assert found["linear"] == pytest.approx(0.25, abs=0.1)
    assert found["R@5"] == pytest.approx(1 - 0.75**5, abs=0.1)


def test_test_clips_choose_nothing() -> None:
    train, classes = blobs(100, 3.0, 0)
    chosen = set()
    for seed in (1, 2, 3):
        test, test_classes = blobs(30, 0.1 * 10**seed, seed)
        found = probe_features(train, classes, held_out(100), test, test_classes[::-1].copy())
        chosen.add((found["knn_neighbours"], found["linear_c"]))
    assert len(chosen) == 1


def test_a_class_without_a_training_clip_counts_as_wrong() -> None:
    (train, train_classes), (test, test_classes) = blobs(100, 0.3, 0), blobs(40, 0.3, 1)
    test_classes = np.where(test_classes == 3, 4, test_classes)
    found = probe_features(train, train_classes, held_out(100), test, test_classes)
    assert found["knn"] == found["linear"] == found["R@50"] == 0.75


def test_scaling_a_column_does_not_change_the_linear_probe() -> None:
    (train, train_classes), (test, test_classes) = blobs(100, 2.0, 0), blobs(60, 2.0, 1)
    scale = torch.tensor([1e-3, 1, 1e3, 1, 1, 1, 1, 1])
    shift = torch.tensor([0.0, 5, 0, 0, 0, 0, 0, 0])
    plain = probe_features(train, train_classes, held_out(100), test, test_classes)
    other = probe_features(train * scale + shift, train_classes, held_out(100), test * scale + shift, test_classes)
    assert other["linear"] == pytest.approx(plain["linear"], abs=0.02)


def test_nothing_to_learn_from_is_refused() -> None:
    train, classes = blobs(20, 0.3, 0)
    for mask in (np.zeros(20, bool), np.ones(20, bool)):
        with pytest.raises(ValueError, match="expected held-out clips, others to learn from, and test clips"):
            probe_features(train, classes, mask, train, classes)
    with pytest.raises(UsageError, match="measure on another split"):
        check_request("train", "train", 3)
    with pytest.raises(UsageError, match="--views must be at least 1, got 0"):
        check_request("test", "train", 0)


def test_views_are_scaled_and_averaged_and_missing_ones_left_out() -> None:
    views = torch.tensor([[3.0, 0], [0, 2], [5, 0], [7, 7], [1, 1], [1, 1]])
    present = torch.tensor([True, True, True, False, False, False])
    averaged, there = average_views({"audio": views}, {"audio": present}, 2)
    assert averaged["audio"].tolist() == [[0.5, 0.5], [1, 0], [0, 0]]
    assert there["audio"].tolist() == [True, True, False]


def test_both_modalities_count_alike() -> None:
    clips = ClipFeatures(
        {"video": torch.tensor([[3.0, 4], [0, 0]]), "audio": torch.tensor([[0.0, 0, 0.1], [9, 0, 0]])},
        {"video": torch.tensor([True, False]), "audio": torch.tensor([True, True])},
        {},
    )
    values, there = combinations_of(clips)["video+audio"]
    assert values.flatten().tolist() == pytest.approx([0.6, 0.8, 0, 0, 1, 0, 0, 1, 0, 0])
    assert there.tolist() == [True, True]
    assert list(combinations_of(clips)) == ["video", "audio", "video+audio"]


def test_clips_without_label_or_modality_take_no_part() -> None:
    (train, train_classes), (test, test_classes) = blobs(100, 0.3, 0), blobs(40, 0.3, 1)
    names: list[str | None] = [f"class {number}" for number in train_classes]
    unseen: list[str | None] = [f"class {number}" for number in test_classes]
    unseen[:4] = [None] * 4
    there = torch.ones(100, dtype=torch.bool)
    heard = there.clone()
    heard[:10] = False
    learned = ClipFeatures({"video": train, "audio": train}, {"video": there, "audio": heard}, {})
    measured = ClipFeatures({"video": test, "audio": test}, {"video": there[:40], "audio": there[:40]}, {})
    found = probe_clips(learned, names, held_out(100), measured, unseen, torch.device("cpu"))
    assert {name: (row["train"], row["test"]) for name, row in found.items()} == {
        "video": (100, 36),
        "audio": (90, 36),
        "video+audio": (100, 36),
    }


def batch_of(config: Config, rows: list[int], present: list[bool], num_views: int) -> ClipBatch:
    generator = torch.Generator().manual_seed(0)
    count, size = len(rows) * num_views, config.video.decode_size
    video = torch.randint(0, 256, (count, config.video.num_frames, size, size, 3), generator=generator)
    sound = torch.randint(
        -9000, 9000, (count, round(config.data.clip_s * config.audio.sample_rate)), generator=generator
    )
    mask = torch.tensor(present).repeat_interleave(num_views)
    errors = [(row, "corrupt: cut off") for row, there in zip(rows, present, strict=True) if not there]
    return ClipBatch(
        torch.tensor(rows).repeat_interleave(num_views),
        {"video": video.byte(), "audio": sound.short()},
        {"video": mask, "audio": mask},
        torch.full((count, NUM_DRAWS), 0.5),
        errors,
    )


def test_clips_are_encoded_into_their_rows(tiny: Callable[..., Config]) -> None:
    config = tiny("encoders.audio_width=8")
    model, augment = SelaviModel(config).eval(), Augment(config)
    batches = [batch_of(config, [2, 0], [True, True], 2), batch_of(config, [1], [False], 2)]
    found = encode_clips(model, augment, batches, 3, 2)
    assert found.present["video"].tolist() == [True, False, True]
    assert found.errors == {1: "corrupt: cut off"}
    assert (found.features["video"][1] == 0).all()
    alone = encode_clips(model, augment, [batches[0]], 3, 2)
    assert torch.equal(alone.features["audio"], found.features["audio"])
    assert (found.features["audio"][[0, 2]].norm(dim=1) <= 1 + 1e-6).all()
    with pytest.raises(DataError, match="none of the 1 clips could be decoded; the first: corrupt: cut off"):
        encode_clips(model, augment, [batch_of(config, [0], [False], 2)], 1, 2)
