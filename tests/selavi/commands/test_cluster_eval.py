import json
import shutil
from pathlib import Path

import pytest

from selavi.scores import num_clusters
from tools import cluster_eval


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    clusters, labels = tmp_path / "clusters.csv", tmp_path / "labels.csv"
    clusters.write_text("id,cluster\na,0\nb,0\nc,1\nd,1\n")
    labels.write_text("id,label\nd,dog\nc,dog\nb,cat\na,cat\n")
    return clusters, labels


def test_clusters_of_a_file_are_scored(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    clusters, labels = files
    assert cluster_eval.main(["--clusters", str(clusters), "--labels", str(labels)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"4 clips of {clusters}: 2 clusters, 2 labels of {labels}\n")
    assert "nmi                  1.000" in text
    assert clusters.with_name("clusters_metrics.json").exists()


def test_files_that_name_other_clips_are_a_usage_error(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    clusters, labels = files
    labels.write_text("id,label\nd,dog\nc,dog\nb,cat\n")
    assert cluster_eval.main(["--clusters", str(clusters), "--labels", str(labels)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"error: the ids differ: 1 of 4 in {clusters} are not in {labels}, such as 'a'; ")
    assert captured.out == ""


@pytest.mark.parametrize(
    "given", [[], ["--clusters"], ["--labels"], ["RUN", "--clusters", "--labels"], ["RUN", "--labels"]]
)
def test_runs_or_both_files(files: tuple[Path, Path], given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    arguments = []
    for name in given:
        arguments += [name, str(files[name == "--labels"])] if name.startswith("--") else [name]
    assert cluster_eval.main(arguments) == 2
    assert "expected run folders, or --clusters FILE and --labels FILE together" in capsys.readouterr().err


def test_a_number_of_clusters_is_suggested(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(num_clusters, "CLIPS_PER_CLUSTER", 2)  # the run has few clips
    run = shutil.copytree(finished_run, tmp_path / "run")
    assert cluster_eval.main([str(run), "--views", "1", "--suggest-k"]) == 0
    figures = json.loads((run / "eval" / "metrics_train.json").read_text())["suggested_k"]
    output = capsys.readouterr()
    assert f"suggested K: {figures['num_clusters']}, where" in output.out
    assert f"the encoders learned {figures['trained_with']} clusters" in output.out
    trains_with_it = f"heads.num_clusters={figures['num_clusters']} run_dir={run}-k{figures['num_clusters']}"
    assert (trains_with_it in output.err) == (figures["num_clusters"] != figures["trained_with"])


def test_too_few_clips_to_suggest_a_number(
    finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    assert cluster_eval.main([str(run), "--views", "1", "--suggest-k", "--split", "test"]) == 2
    assert "no number of clusters can be suggested: " in capsys.readouterr().err
