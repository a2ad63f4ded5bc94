"""Runs on vectors that something else has made: alone, and beside what recordings give."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from datamodules.clips import ClipDataModule, prepare_data
from datamodules.loading.dataset import ClipDataset
from datamodules.loading.vector_loader import VectorLoader
from datamodules.stores.files import FileReader
from selavi.batch import ClipBatch
from selavi.config import load_config
from selavi.errors import UsageError
from selavi.runs.folder import RunFolder
from tools import cluster_eval, train

NUM_CLIPS, NUM_CLASSES, D = 240, 6, 8
SHORT = ("labelling.num_labellings=6", "labelling.marginal=uniform", "trainer.max_epochs=6", "heads.kind=linear")


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two spaces, each of which knows half of the classes; some clips lack one, every fifth is a test clip."""
    folder = tmp_path_factory.mktemp("arrays")
    rng = np.random.default_rng(0)
    classes = np.arange(NUM_CLIPS) % NUM_CLASSES
    for number, name in enumerate(("one", "two")):
        centres = 2 * rng.normal(size=(NUM_CLASSES, D)) * (np.arange(NUM_CLASSES)[:, None] // 3 == number)
        values = centres[classes] + 0.3 * rng.normal(size=(NUM_CLIPS, D))
        values[5 + number :: 40] = np.nan
        np.save(folder / f"{name}.npy", values.astype(np.float16))
    splits = ["test" if number % 5 == 4 else "train" for number in range(NUM_CLIPS)]
    ids = [
        f"{split}/class{label}/{number:03}" for number, (split, label) in enumerate(zip(splits, classes, strict=True))
    ]
    (folder / "ids.txt").write_text("\n".join(ids))
    return folder


def settings(folder: Path, *more: str) -> list[str]:
    """A run on both."""
    files = [
        f"{name}.{key}" for name in ("one", "two") for key in (f"file={folder / name}.npy", f"ids={folder}/ids.txt")
    ]
    small = ["heads.num_heads=2", "heads.num_clusters=6", "optim.batch_size=32", "optim.lr=0.2", "optim.lr_clips=32"]
    small += ["optim.warmup_epochs=0", "optim.schedule=cosine", "trainer.accelerator=cpu", "data.num_workers=0"]
    cache = f"data.cache_dir={folder / 'cache'}"
    return ["modalities={one: features, two: features}", *files, *small, *SHORT, "features.noise=0.2", cache, *more]


def test_first_labels_are_those_of_k_means_where_the_vectors_have_clusters(
    arrays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    assert train.main(settings(arrays, f"run_dir={folder}")) == 0
    said = capsys.readouterr().err
    assert "first labels: K-means on the vectors (one and two) in" in said
    assert "their heads agree to 1.00 (NMI), nmi 0.9" in said
    assert cluster_eval.main([str(folder), "--split", "test"]) == 0
    assert json.loads((folder / "eval" / "metrics_test.json").read_text())["chosen"]["nmi"] > 0.95


def test_no_first_labels_where_k_means_is_of_two_minds(
    arrays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(1).normal(size=(NUM_CLIPS, D))
    np.save(tmp_path / "noise.npy", noise)
    common = settings(arrays, "heads.num_heads=1", "trainer.max_epochs=1", "labelling.num_labellings=2")
    common.append("labelling.head_groups=1")
    common += [f"{name}.file={tmp_path}/noise.npy" for name in ("one", "two")]
    assert train.main([*common, f"run_dir={tmp_path / 'one'}"]) == 0
    said = capsys.readouterr().err
    assert "none are given, since K-means on the vectors agrees from one start to another only to 0." in said
    assert train.main([*common, f"run_dir={tmp_path / 'all the same'}", "labelling.first=kmeans"]) == 0
    assert "first labels: K-means on the vectors" in capsys.readouterr().err


def test_k_means_needs_vectors(tmp_path: Path, demo_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"data.root={demo_set}", f"run_dir={tmp_path / 'run'}", "labelling.first=kmeans"]
    assert train.main([*words, f"data.cache_dir={tmp_path}"]) == 2
    assert "no modality is of kind features; write labelling.first=crafted" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["joint", "concat", "own", "cross", "two"])
def test_a_run_on_vectors_alone_trains_goes_on_and_is_measured(
    arrays: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    common = settings(arrays, f"run_dir={tmp_path / 'run'}", f"labelling.source={source}", "one.layers=[16]")
    assert train.main(common) == 0
    said = "\n".join(record.getMessage() for record in caplog.records)
    assert f"192 training clips in {arrays}/one.npy, {arrays}/two.npy, one and two" in capsys.readouterr().err
    assert "6 of 240 rows are left out: 6 have numbers that are not finite" in said
    assert "modality one: 234 of 240 clips have a vector" in said
    labels = pq.read_table(tmp_path / "run" / "labels" / "train.parquet")
    assert len(set(labels["id"].to_pylist())) == 192 and labels["cluster"].null_count == 0
    assert "num_dims: 8" in RunFolder(tmp_path / "run").settings.read_text()
    assert train.main([*common, "resume=must"]) == 0
    assert cluster_eval.main([str(tmp_path / "run"), "--split", "test"]) == 0
    assert (tmp_path / "run" / "eval" / "metrics_test.json").exists()


def test_what_both_know_together_is_more_than_either_knows(arrays: Path, tmp_path: Path) -> None:
    assert train.main(settings(arrays, f"run_dir={tmp_path / 'run'}", "trainer.max_epochs=30")) == 0
    assert cluster_eval.main([str(tmp_path / "run"), "--split", "test"]) == 0
    metrics = json.loads((tmp_path / "run" / "eval" / "metrics_test.json").read_text())
    alone = [entry["nmi"] for entry in metrics["alone"].values()]
    assert metrics["chosen"]["nmi"] > 0.9 > max(alone)


def test_blocks_of_rows_are_the_views_of_single_clips(arrays: Path, tmp_path: Path) -> None:
    config = load_config(None, settings(arrays, f"run_dir={tmp_path / 'run'}"))
    data = ClipDataModule(config, *prepare_data(config))
    loader = data.labelling_loader(3)
    assert isinstance(loader, VectorLoader)
    rows = data.train_rows
    vectors = {name: opened.select(rows["id"]) for name, opened in data.loaders.files.items()}
    one_by_one = ClipDataset(rows, config, FileReader(rows, 1.0), vectors=vectors)
    keys = iter(loader.sampler)
    batches = list(loader)
    for batch in batches:
        for number in range(len(batch.index)):
            clip = one_by_one[next(keys)]
            assert clip.index == batch.index[number] and torch.equal(clip.draws, batch.draws[number])
            for name in ("one", "two"):
                assert torch.equal(clip.inputs[name], batch.inputs[name][number])
                assert clip.present[name] == bool(batch.present[name][number])
    assert not torch.cat([batch.present["one"] for batch in batches]).all()


def test_features_over_the_budget_are_encoded_anew_and_labels_are_the_same(arrays: Path, tmp_path: Path) -> None:
    tables = []
    for name, budget in (("kept", "8"), ("anew", "1e-6")):
        run_dir = tmp_path / name
        words = settings(arrays, f"run_dir={run_dir}", f"labelling.memory_gb={budget}", "trainer.max_epochs=2")
        assert train.main(words) == 0
        tables.append(pq.read_table(run_dir / "labels" / "train.parquet"))
    assert tables[0]["cluster"].equals(tables[1]["cluster"])


def test_a_pass_is_taken_up_where_it_was_left(arrays: Path, tmp_path: Path) -> None:
    config = load_config(None, settings(arrays, f"run_dir={tmp_path / 'run'}"))
    loader = ClipDataModule(config, *prepare_data(config)).train_dataloader()
    whole = list(loader)
    loader.begin_at = 2
    rest = list(loader)
    assert len(rest) == len(whole) - 2 and len(list(loader)) == len(whole)
    assert all(same(first, second) for first, second in zip(rest, whole[2:], strict=True))


def same(first: ClipBatch, second: ClipBatch) -> bool:
    """Whether two batches hold the same."""
    return torch.equal(first.index, second.index) and all(
        torch.equal(first.inputs[name], second.inputs[name]) for name in first.inputs
    )


def test_vectors_stand_beside_sound(tiny_yaml: Path, tmp_path: Path, demo_set: Path) -> None:
    clips = sorted(path.relative_to(demo_set).as_posix() for path in demo_set.rglob("*.mp4"))
    known = clips[: len(clips) - 5]
    np.save(tmp_path / "v.npy", np.random.default_rng(0).normal(size=(len(known), D)))
    (tmp_path / "ids.txt").write_text("\n".join(known))
    words = ["--config", str(tiny_yaml), f"run_dir={tmp_path / 'run'}", "trainer.max_epochs=1"]
    words += ["modalities={audio: audio, vec: features}", f"vec.file={tmp_path}/v.npy", f"vec.ids={tmp_path}/ids.txt"]
    assert train.main([*words, "vec.layers=[8]", "labelling.num_labellings=2"]) == 0
    assert cluster_eval.main([str(tmp_path / "run"), "--split", "test"]) == 0


def test_three_spaces_and_clips_that_lack_two(arrays: Path, tmp_path: Path) -> None:
    values = np.load(arrays / "one.npy")
    values[:50] = np.nan
    np.save(tmp_path / "three.npy", values)
    three = ["modalities.three=features", f"three.file={tmp_path}/three.npy", "labelling.source=cross"]
    assert train.main(settings(arrays, f"run_dir={tmp_path / 'run'}", *three, "trainer.max_epochs=2")) == 0
    labels = pq.read_table(tmp_path / "run" / "labels" / "train.parquet")
    assert set(labels["head"].to_pylist()) == set(range(6)) and labels["cluster"].null_count == 0
    assert cluster_eval.main([str(tmp_path / "run"), "--split", "test"]) == 0


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["one.file=nowhere.npy"], "cannot read the vectors in nowhere.npy"),
        (["one.num_dims=9"], "has 8 numbers a vector, but one.num_dims=9"),
        (["heads.num_clusters=200"], "there are only 192 usable training clips"),
        (["data.train_split=val"], "no file in split 'val'"),
    ],
)
def test_what_does_not_fit_is_refused(arrays: Path, tmp_path: Path, more: list[str], message: str) -> None:
    config = load_config(None, settings(arrays, f"run_dir={tmp_path / 'run'}", *more))
    with pytest.raises(UsageError, match=message):
        prepare_data(config)


def test_ids_that_match_no_clip_are_refused(tiny_yaml: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones((3, D)))
    words = ["modalities={audio: audio, vec: features}", f"vec.file={tmp_path}/v.npy"]
    config = load_config(tiny_yaml, [*words, f"run_dir={tmp_path / 'run'}"])
    with pytest.raises(UsageError, match=r"modality vec: none of the .* clips .*of vectors such as '0'"):
        prepare_data(config)
