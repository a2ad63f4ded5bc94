"""Runs and prepared sets of the code before its rooms were rebuilt open, go on and are exported."""

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from datamodules.stores.shards import open_shards
from selavi.runs.record import load_run, read_status
from tools import cluster_eval, export_clusters, train

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """stopped/, finished/ (without weights) and prepared/ as README.txt beside them says."""
    safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4 brought it
    for name in ("earlier_run", "earlier_set"):
        with tarfile.open(FIXTURES / f"{name}.tar.xz") as archive:
            archive.extractall(tmp_path, **safely)
    return tmp_path


def settings(earlier: Path) -> list[str]:
    return [f"data.root={earlier / 'prepared'}", f"data.cache_dir={earlier / 'cache'}"]


def test_an_earlier_prepared_set_opens(earlier: Path) -> None:
    manifest, reader = open_shards(str(earlier / "prepared"), earlier / "cache", 1.0)
    assert len(manifest) == 24
    assert reader is not None


@pytest.mark.end_to_end
def test_an_earlier_run_that_was_stopped_goes_on_to_the_same_labels(earlier: Path) -> None:
    run = earlier / "stopped"
    words = ["--config", str(run / "config.yaml"), f"run_dir={run}", "resume=auto", *settings(earlier)]
    assert train.main(words) == 0
    assert read_status(run)["epochs"] == 2
    after, before = (pq.read_table(earlier / name / "labels/train.parquet") for name in ("stopped", "finished"))
    assert after.select(["id", "head", "cluster"]).equals(before.select(["id", "head", "cluster"]))
    # Sizes are met within 1e-6, by which way is up to the solver; and the encoder rounds otherwise than it did then.
    for name in ("confidence", "margin", "entropy"):
        np.testing.assert_allclose(after[name], before[name], atol=5e-3)


@pytest.mark.end_to_end
def test_an_earlier_run_is_measured_and_exported_with_its_names(earlier: Path) -> None:
    run, moved = earlier / "run", settings(earlier)[0]
    shutil.copytree(earlier / "stopped", run)
    shutil.copytree(earlier / "finished", run, dirs_exist_ok=True)
    names = (run / "names.csv").read_bytes()
    assert load_run(run).config.heads.num_clusters == 8
    assert cluster_eval.main([str(run), "--split", "test", moved]) == 0
    assert (run / "eval" / "metrics_test.json").exists()
    assert export_clusters.main([str(run), "--map", "none", "--evidence", "0", "--clips", "2", moved]) == 0
    table = pq.read_table(run / "clusters.parquet")
    assert table["name"].null_count < len(table)
    assert (run / "names.csv").read_bytes() == names
