import pytest
import torch

from selavi.batch import NUM_DRAWS, ClipBatch, DecodedClip, collate


def clip(index: int, side: int = 4, video: bool = True, error: str | None = None) -> DecodedClip:
    frames = torch.full((2, side, side, 3), index, dtype=torch.uint8)
    present = {"video": video, "audio": error is None}
    inputs = {"video": frames, "audio": torch.full((8,), 100 * index, dtype=torch.int16)}
    return DecodedClip(index, inputs, present, torch.full((NUM_DRAWS,), 0.5), error)


def together(*clips: DecodedClip) -> ClipBatch:
    return collate(iter(clips), len(clips))


def test_clips_become_a_batch() -> None:
    batch = together(clip(3), clip(1, video=False), clip(7, video=False, error="corrupt: no frame"))
    assert batch.index.tolist() == [3, 1, 7]
    assert batch.inputs["video"].shape == (3, 2, 4, 4, 3)
    assert batch.inputs["video"].dtype == torch.uint8
    assert batch.inputs["audio"].shape == (3, 8)
    assert batch.inputs["audio"].dtype == torch.int16
    assert batch.inputs["video"][:, 0, 0, 0, 0].tolist() == [3, 1, 7]
    assert batch.present["video"].tolist() == [True, False, False]
    assert batch.present["audio"].tolist() == [True, True, False]
    assert batch.present["audio"].dtype == torch.bool
    assert batch.draws.shape == (3, NUM_DRAWS)
    assert batch.errors == [(7, "corrupt: no frame")]


def test_a_batch_of_one_keeps_its_axis() -> None:
    batch = together(clip(3))
    assert batch.inputs["video"].shape == (1, 2, 4, 4, 3)
    assert batch.inputs["audio"].shape == (1, 8)
    assert batch.index.shape == (1,)


def test_one_modality_is_enough() -> None:
    alone = DecodedClip(0, {"audio": torch.zeros(8, dtype=torch.int16)}, {"audio": True}, torch.zeros(NUM_DRAWS))
    batch = together(alone, alone)
    assert set(batch.inputs) == set(batch.present) == {"audio"}


def test_clips_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have one video shape, found \[\(2, 4, 4, 3\), \(2, 6, 6, 3\)\]"):
        together(clip(0), clip(1, side=6))


def test_moving_a_batch_keeps_everything() -> None:
    batch = together(clip(3), clip(1, error="empty: 0 bytes"))
    moved = batch.to(torch.device("meta"))
    assert moved.inputs["video"].device.type == moved.index.device.type == moved.draws.device.type == "meta"
    assert moved.present["audio"].device.type == "meta"
    assert moved.errors == batch.errors


def test_what_does_not_fit_together_is_refused_and_shapes_are_shown() -> None:
    batch = together(clip(3), clip(1))
    assert repr(batch) == "ClipBatch(index=(2,), video=(2, 2, 4, 4, 3) uint8, audio=(2, 8) int16, errors=[])"
    assert "video=(2, 4, 4, 3) uint8" in repr(clip(3)) and "present=['video', 'audio']" in repr(clip(3))
    with pytest.raises(ValueError, match=r"a batch of 2 clips has audio \(1, 8\), expected \(2, ...\)"):
        ClipBatch(batch.index, batch.inputs | {"audio": batch.inputs["audio"][:1]}, batch.present, batch.draws, [])
    with pytest.raises(ValueError, match=r"inputs of \['audio'\], but presence of \['video', 'audio'\]"):
        DecodedClip(0, {"audio": batch.inputs["audio"][0]}, {"video": True, "audio": True}, batch.draws[0])
    with pytest.raises(ValueError, match=r"expected draws \(37,\), got \(3,\)"):
        DecodedClip(0, {}, {}, torch.zeros(3))
