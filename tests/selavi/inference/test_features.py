"""Features that are kept: each clip is encoded once, whatever a killed process left."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from selavi.batch import NUM_DRAWS, ClipBatch
from selavi.inference import features
from selavi.inference.encode import ClipFeatures, encode_clips, encode_parts
from selavi.inference.features import kept_features


def batch_of(rows: list[int], errors: list[tuple[int, str]] | None = None) -> ClipBatch:
    """One view of each clip, whose input is (its row, 1)."""
    lost = {row for row, _ in errors or []}
    present = torch.tensor([row not in lost for row in rows])
    inputs = torch.tensor([[float(row), 1.0] for row in rows])
    draws = torch.zeros(len(rows), NUM_DRAWS)
    return ClipBatch(torch.tensor(rows), {"video": inputs}, {"video": present}, draws, errors or [])


class Identity:
    num_features = {"video": 2}  # noqa: RUF012

    def parameters(self) -> Iterator[torch.Tensor]:
        return iter([torch.zeros(1)])

    def fused_encoders(self) -> Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
        return dict


MODEL: Any = Identity()
AUGMENT: Any = lambda batch, random: batch.inputs  # noqa: E731


def test_parts_are_what_all_clips_together_are() -> None:
    batches = [batch_of([1, 0]), batch_of([2]), batch_of([3, 5], [(5, "corrupt")]), batch_of([4]), batch_of([6])]
    parts = list(encode_parts(MODEL, AUGMENT, batches, 7, 1, 3))
    whole = encode_clips(MODEL, AUGMENT, batches, 7, 1)
    assert [len(part.features["video"]) for part in parts] == [3, 3, 1]
    assert torch.equal(torch.cat([part.features["video"] for part in parts]), whole.features["video"])
    assert torch.equal(torch.cat([part.present["video"] for part in parts]), whole.present["video"])
    assert [part.errors for part in parts] == [{}, {2: "corrupt"}, {}] and whole.errors == {5: "corrupt"}


def test_only_what_a_killed_process_lacks_is_encoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call for all that is missing: the model and the loader processes start once, not for every part."""
    monkeypatch.setattr(features, "PART", 3)
    rows = pa.table({"id": [f"{number}.mp4" for number in range(8)]})
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.write_bytes(b"weights")
    path = tmp_path / "features" / "train.safetensors"
    calls: list[list[str]] = []

    def encode(asked: pa.Table, part: int) -> Iterator[ClipFeatures]:
        calls.append(asked["id"].to_pylist())
        for start in range(0, len(asked), part):
            values = [float(name[0]) for name in asked["id"].slice(start, part).to_pylist()]
            table = torch.tensor([[value, 1.0] for value in values])
            yield ClipFeatures({"video": table}, {"video": torch.ones(len(values), dtype=torch.bool)}, {})
            if len(calls) == 1 and start == 0:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept_features(path, rows, checkpoint, 1, encode)
    kept = kept_features(path, rows, checkpoint, 1, encode)
    assert calls == [rows["id"].to_pylist(), [f"{number}.mp4" for number in range(3, 8)]]
    expected = np.array([[number, 1.0] for number in range(8)])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(kept["video"].numpy(), expected, atol=1e-3)
    assert torch.equal(kept_features(path, rows, checkpoint, 1, encode)["video"], kept["video"]) and len(calls) == 2
    assert [file.name for file in path.parent.iterdir()] == ["train.safetensors"]


def test_clips_that_could_not_be_read_for_a_while_are_encoded_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "PART", 3)
    rows = pa.table({"id": [f"{number}.mp4" for number in range(5)]})
    checkpoint = tmp_path / "last.ckpt"
    checkpoint.write_bytes(b"weights")
    path = tmp_path / "train.safetensors"
    lost = {"1.mp4": "corrupt: broken", "4.mp4": "unreadable: stale"}
    calls: list[list[str]] = []

    def encode(asked: pa.Table, part: int) -> Iterator[ClipFeatures]:
        calls.append(asked["id"].to_pylist())
        for start in range(0, len(asked), part):
            names = asked["id"].slice(start, part).to_pylist()
            errors = {row: lost[name] for row, name in enumerate(names) if name in lost}
            table = torch.tensor([[0.0 if name in lost else 1.0] for name in names])
            yield ClipFeatures({"video": table}, {"video": table[:, 0] > 0}, errors)

    for _ in range(2):
        kept = kept_features(path, rows, checkpoint, 1, encode)["video"]
        assert kept.flatten().tolist() == [1, 0, 1, 1, 0]
    del lost["4.mp4"]
    for _ in range(2):
        kept = kept_features(path, rows, checkpoint, 1, encode)["video"]
        assert kept.flatten().tolist() == [1, 0, 1, 1, 1]
    assert calls == [rows["id"].to_pylist(), ["4.mp4"], ["4.mp4"]]
