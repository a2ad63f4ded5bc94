"""Several kinds at once that are made of the same recordings."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.end_to_end.runs import Train, bank
from tools import assign, cluster_eval, export_clusters

pytestmark = pytest.mark.end_to_end


@pytest.mark.parametrize(
    "overrides",
    [
        ("modalities=[video,audio,motion]",),
        ("modalities=[video,statistics]", "labelling.source=statistics"),
        ("modalities={eye: video, moves: motion, ear: audio, hum: statistics}", "labelling.source=cross"),
        ("modalities={near: audio, all: audio}", "near.channel=0"),
        ("modalities=[statistics]",),
        ("modalities=[motion]",),
    ],
    ids=["motion-beside", "statistics-teach", "named", "channels", "statistics-alone", "motion-alone"],
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
