"""The neighbours of SeLaVi, end to end on generated clips: each trains, resumes, and labels clips it never saw."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from selavi.results.labels import LABEL_SCHEMA
from selavi.runs.checkpoint import read_checkpoint
from selavi.runs.folder import RunFolder
from tools import cluster_eval, train

RECIPES = {
    "sela on features together": ["labelling.source=concat"],
    "a sela each": ["labelling.source=own"],
    "swapped sela": ["labelling.source=cross"],
    "deepcluster": ["modalities=[audio]", "labelling.method=kmeans"],
    "sdc": ["labelling.source=own", "labelling.method=kmeans"],
    "xdc": ["labelling.source=cross", "labelling.method=kmeans"],
    "cdc": ["labelling.source=concat", "labelling.method=kmeans"],
}


@pytest.fixture
def fit(tiny_yaml: Path) -> Callable[..., int]:
    return lambda folder, *overrides: train.main(["--config", str(tiny_yaml), f"run_dir={folder}", *overrides])


def bank(folder: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(RunFolder(folder).last_checkpoint)["label_bank"]


@pytest.mark.end_to_end
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_trains_and_labels_unseen_clips(fit: Callable[..., int], tmp_path: Path, recipe: str) -> None:
    folder = tmp_path / "run"
    assert fit(folder, *RECIPES[recipe]) == 0
    num_heads = 4 if recipe in ("a sela each", "swapped sela", "sdc", "xdc") else 2
    kept = bank(folder)
    assert kept["labels"].shape == (32, num_heads)
    assert kept["labels"].min() >= 0
    by_kmeans = "labelling.method=kmeans" in RECIPES[recipe]
    assert bool((kept["potentials"] == 0).all()) == by_kmeans
    assert bool((kept["weights"] == 1).all()) != by_kmeans
    labels = pq.read_table(folder / "labels" / "train.parquet")
    assert labels.schema.equals(LABEL_SCHEMA)
    assert np.array_equal(labels["cluster"].to_numpy().reshape(32, num_heads), kept["labels"].numpy())
    assert labels["confidence"].null_count == 0
    together = recipe == "cdc"  # only there do two modalities vote on one label
    assert labels["modality_agreement"].null_count == (0 if together else len(labels))
    assert cluster_eval.main([str(folder), "--split", "test"]) == 0
    unseen = pq.read_table(folder / "labels" / "test.parquet")
    assert len(unseen) == 16 * num_heads
    assert unseen["cluster"].null_count == 0


@pytest.mark.end_to_end
@pytest.mark.parametrize("recipe", ["xdc", "swapped sela"])
def test_a_recipe_that_was_stopped_ends_as_if_it_had_not_been(
    fit: Callable[..., int], tmp_path: Path, recipe: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from selavi.errors import Interrupted
    from selavi.training import callbacks

    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert fit(whole, *RECIPES[recipe], "trainer.max_epochs=3") == 0
    begin = callbacks.Progress.on_train_batch_end

    def stop(self, trainer, module, outputs, batch, number: int) -> None:  # type: ignore[no-untyped-def]
        begin(self, trainer, module, outputs, batch, number)
        if trainer.global_step == 6:  # in the second of three epochs of four steps
            raise Interrupted("stopped by the test")

    with monkeypatch.context() as patch:
        patch.setattr(callbacks.Progress, "on_train_batch_end", stop)
        assert fit(parted, *RECIPES[recipe], "trainer.max_epochs=3") == 75
    assert fit(parted, *RECIPES[recipe], "trainer.max_epochs=3", "resume=must") == 0
    for name in ("labels", "potentials", "weights"):
        assert torch.equal(bank(whole)[name], bank(parted)[name]), name


@pytest.mark.end_to_end
def test_the_recipe_for_one_gpu_trains_in_miniature(demo_set: Path, cache_dir: Path, tmp_path: Path) -> None:
    """Its own schedule, precision and heads, with small encoders, few clips a step and one epoch."""
    folder = tmp_path / "run"
    less = ["encoders.video_width=4", "encoders.video_depth=10", "encoders.audio_width=8", "heads.num_clusters=8"]
    less += ["video.num_frames=2", "video.decode_size=32", "video.size=24", "data.num_workers=0"]
    less += ["optim.batch_size=8", "labelling.batch_size=8", "labelling.num_labellings=3", "trainer.max_epochs=1"]
    where = [f"data.root={demo_set}", f"data.cache_dir={cache_dir}", f"run_dir={folder}", "trainer.accelerator=cpu"]
    assert train.main(["--config", "medium", *less, *where]) == 0
    assert bank(folder)["labels"].shape == (32, 6)
    assert (bank(folder)["labels"] >= 0).all()
