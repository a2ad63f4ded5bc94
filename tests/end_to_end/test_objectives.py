"""Losses without labels, cliques and a table's labels: each trains on vectors, goes on, and finds clusters."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from selavi.labelling.bank import ids_of_bank
from selavi.results.naming import read_names
from selavi.runs.checkpoint import read_checkpoint
from selavi.runs.folder import RunFolder
from selavi.scores.baselines import cluster_features, scale_features
from selavi.scores.contingency import contingency_matrix
from selavi.scores.metrics import normalised_mutual_information
from tests.end_to_end.runs import assert_same_run, stop_at
from tools import cluster_eval, train

NUM_CLIPS, NUM_CLASSES, D = 300, 6, 12


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two spaces of noisy clusters, ids, and a table with the labels of some; every fifth is a test clip."""
    folder = tmp_path_factory.mktemp("arrays")
    rng = np.random.default_rng(0)
    classes = rng.permutation(np.arange(NUM_CLIPS) % NUM_CLASSES)
    for name in ("one", "two"):
        centres = rng.normal(size=(NUM_CLASSES, D))
        np.save(folder / f"{name}.npy", (centres[classes] + 0.9 * rng.normal(size=(NUM_CLIPS, D))).astype(np.float32))
    splits = ["test" if number % 5 == 4 else "train" for number in range(NUM_CLIPS)]
    ids = [f"{split}/c{label}/{number:03}" for number, (split, label) in enumerate(zip(splits, classes, strict=True))]
    (folder / "ids.txt").write_text("\n".join(ids))
    (folder / "some.csv").write_text("id,cluster\n" + "".join(f"{one},{one.split('/')[1]}\n" for one in ids[::3]))
    return folder


METHODS = {
    "iic": ("labelling.method=none", "loss.kind=mutual_information", "labelling.source=concat", "optim.lr=2"),
    "scan": ("labelling.method=none", "loss.kind=neighbours", "optim.lr=0.5"),
    "cliques": (
        "labelling.method=cliques",
        "labelling.source=concat",
        "labelling.first=random",
        "labelling.clique_size=20",
    ),
    "given": ("labelling.method=given", "labelling.table=$/some.csv"),
}


def words(arrays: Path, run: Path, method: str, *more: str) -> list[str]:
    files = [f"{name}.{key}" for name in ("one", "two") for key in (f"file=$/{name}.npy", "ids=$/ids.txt")]
    plain = ["--config", "features", "modalities={one: features, two: features}", f"run_dir={run}", *files]
    plain += ["heads.num_heads=2", f"heads.num_clusters={NUM_CLASSES}", "optim.batch_size=48", "trainer.max_epochs=40"]
    plain += ["data.cache_dir=$/cache", *METHODS[method]]
    return [*(word.replace("$", str(arrays)) for word in plain), *more]


def kmeans_nmi(arrays: Path, split: str) -> float:
    ids = (arrays / "ids.txt").read_text().split()
    kept = np.array([one.startswith(split) for one in ids])
    parts = [scale_features(np.load(arrays / f"{name}.npy")[kept], "standardise+l2") for name in ("one", "two")]
    labels = [one.split("/")[1] for one in ids if one.startswith(split)]
    clusters = cluster_features(np.concatenate(parts, 1), NUM_CLASSES)
    return normalised_mutual_information(contingency_matrix(labels, clusters))


@pytest.mark.end_to_end
@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_it_trains_to_the_clusters_of_k_means_or_nearly(arrays: Path, tmp_path: Path, method: str) -> None:
    run = tmp_path / "run"
    assert train.main(words(arrays, run, method)) == 0
    labels = pq.read_table(run / "labels" / "train.parquet")
    assert labels["cluster"].null_count == 0 and min(labels["cluster"].to_pylist()) >= 0
    assert cluster_eval.main([str(run), "--split", "test"]) == 0
    nmi = json.loads((run / "eval" / "metrics_test.json").read_text())["chosen"]["nmi"]
    below = 0.2 if method == "iic" else 0.0
    assert nmi >= kmeans_nmi(arrays, "test") - below


@pytest.mark.end_to_end
@pytest.mark.parametrize("method", ["scan", "given"])
def test_a_run_that_was_stopped_ends_as_if_it_had_not_been(
    arrays: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    assert train.main(words(arrays, whole, method, "trainer.max_epochs=3")) == 0
    with monkeypatch.context() as patch:
        stop_at(7, patch)
        assert train.main(words(arrays, parted, method, "trainer.max_epochs=3")) == 75
    assert train.main(words(arrays, parted, method, "trainer.max_epochs=3", "resume=must")) == 0
    assert_same_run(whole, parted)


@pytest.mark.end_to_end
def test_given_labels_stay_and_come_back_where_the_run_goes_on(arrays: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert train.main(words(arrays, run, "given", "trainer.max_epochs=2")) == 0
    bank = read_checkpoint(RunFolder(run).last_checkpoint)["label_bank"]
    is_given = bank["given"] >= 0
    assert is_given.any() and not is_given.all()
    assert torch.equal(bank["labels"][is_given], bank["given"][is_given]) and (bank["labels"] >= 0).all()
    assert train.main([str(run), "--more", "1"]) == 0
    after = read_checkpoint(RunFolder(run).last_checkpoint)["label_bank"]
    assert torch.equal(after["given"], bank["given"])
    assert torch.equal(after["labels"][is_given], bank["given"][is_given])


@pytest.mark.end_to_end
def test_named_clusters_are_learned(arrays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert train.main(words(arrays, first, "scan", "trainer.max_epochs=3")) == 0
    rows = ["head,cluster,id,name,into,rejected", "1,0,,dog,,", "1,1,,cat,,", "1,2,,,0,", "1,3,,,,1"]
    (first / "names.csv").write_text("\n".join(rows))
    table = f"labelling.table={first}/names.csv"
    assert train.main(words(arrays, second, "given", table, "trainer.max_epochs=1", "heads.num_clusters=2")) == 0
    made = pq.read_table(first / "labels" / "train.parquet").to_pylist()
    cluster_of = {row["id"]: row["cluster"] for row in made if row["head"] == 1}
    bank = read_checkpoint(RunFolder(second).last_checkpoint)["label_bank"]
    expected = [{0: 1, 2: 1, 1: 0}.get(cluster_of[one], -1) for one in ids_of_bank(bank)]  # cat, then dog
    assert bank["given"][:, 0].tolist() == expected
    assert "names of head 1: " in capsys.readouterr().err
    assert read_names(second / "names.csv").of(0).name == {0: "cat", 1: "dog"}
    (tmp_path / "names.csv").write_text("\n".join(rows))
    assert train.main(words(arrays, tmp_path / "third", "given", f"labelling.table={tmp_path}/names.csv")) == 2
    assert "name the names.csv in its run's folder" in capsys.readouterr().err


@pytest.mark.end_to_end
def test_too_few_clips_a_step_are_refused_before_anything(
    arrays: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train.main(words(arrays, tmp_path / "run", "iic", "optim.batch_size=11")) == 2
    assert "set optim.batch_size=12 or more" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
