"""Several kinds at once that are made of the same recordings."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from _pytest.mark import ParameterSet

from tests.end_to_end.runs import Train, bank
from tools import assign, cluster_eval, export_clusters

pytestmark = pytest.mark.end_to_end


def slow(*overrides: str) -> ParameterSet:
    return pytest.param(overrides, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    "overrides",
    [
        ("modalities={eye: video, moves: motion, ear: audio, hum: statistics}", "labelling.source=cross"),
        slow("modalities=[video,audio,motion]"),
        slow("modalities=[video,statistics]", "labelling.source=statistics"),
        slow("modalities={near: audio, all: audio}", "near.channel=0"),
        slow("modalities=[statistics]"),
        slow("modalities=[motion]"),
    ],
    ids=["named", "motion-beside", "statistics-teach", "channels", "statistics-alone", "motion-alone"],
)
def test_a_run_goes_all_the_way(fit: Train, tmp_path: Path, demo_set: Path, overrides: tuple[str, ...]) -> None:
    folder = tmp_path / "run"
    assert fit(folder, *overrides) == 0
    assert (bank(folder) >= 0).all()
    assert cluster_eval.main([str(folder), "--split", "test"]) == 0
    assert export_clusters.main([str(folder), "--split", "test"]) == 0
    assert assign.main([str(folder), str(demo_set / "test"), "--out", str(tmp_path / "new")]) == 0
    clusters = pq.read_table(tmp_path / "new" / "assignments.parquet").column("cluster")
    assert len(clusters) and not clusters.null_count
