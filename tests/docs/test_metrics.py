import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from selavi.evaluation.external import SHOWN
from selavi.scores.contingency import contingency_matrix
from selavi.scores.metrics import evaluate_clusters, normalised_mutual_information
from tools import cluster_eval


@pytest.fixture
def page(repository: Path) -> str:
    return (repository / "docs" / "metrics.md").read_text(encoding="utf-8")


def test_every_score_is_explained(page: str) -> None:
    scores = evaluate_clusters([0, 1], [0, 1], 2)
    explained = set(re.findall(r"`([a-z_0-9]+)`", page))
    assert set(scores) - {"n", "num_labels", "used_clusters"} <= explained
    assert set(SHOWN) <= explained


def test_the_example_of_two_files_is_read(page: str, tmp_path: Path) -> None:
    table = re.search(r"^id,cluster +id,label\n(.+\n.+)\n```", page, re.M)
    assert table is not None
    rows = [line.split() for line in ["id,cluster id,label", *table[1].splitlines()]]
    paths = [tmp_path / "clusters.csv", tmp_path / "labels.csv"]
    for path, column in zip(paths, zip(*rows, strict=True), strict=True):
        path.write_text("\n".join(column) + "\n")
    assert cluster_eval.main(["--clusters", str(paths[0]), "--labels", str(paths[1])]) == 0
    assert (tmp_path / "clusters_metrics.json").exists()


def test_the_python_example_runs(page: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(rng.integers(0, 8, 300), 3)
    rows = {
        "id": np.repeat([f"{clip}.mp4" for clip in range(300)], 3),
        "head": np.tile(np.arange(3), 300),
        "cluster": np.where(rng.random(900) < 0.2, rng.integers(0, 8, 900), truth),
    }
    (tmp_path / "labels").mkdir()
    pq.write_table(pa.table(rows), tmp_path / "labels" / "train.parquet")
    code = re.search(r"```python\n(.*?)```", page, re.S)
    assert code is not None
    found: dict[str, Any] = {}
    exec(code[1].replace("runs/demo", str(tmp_path)), found)
    assert len(capsys.readouterr().out.splitlines()) == 7
    assert normalised_mutual_information(contingency_matrix(truth[::3], found["together"])) > 0.8
    assert set(found["coarse"]) == set(range(4))
