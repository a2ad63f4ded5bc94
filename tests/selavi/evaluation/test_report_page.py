import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from selavi.config import Config, load_config
from selavi.evaluation.report import evaluate_heads
from selavi.evaluation.report_page import (
    calibration,
    count_cells,
    hits,
    ordered_matrix,
    read_curves,
    summarise,
    target_sizes,
    write_report,
)
from selavi.inference.predict import Predictions
from selavi.labelling.statistics import ClipStatistics
from selavi.scores.head_choice import choose_head
from tools import cluster_eval

Write = Callable[..., tuple[Path, str]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(clusters, labels, confidence)` gives the page of such a run and its text."""

    def make(clusters: np.ndarray, labels: list[Any], num_clusters: int, sure: float = 0.9) -> tuple[Path, str]:
        (tmp_path / "run").mkdir(exist_ok=True)
        each = torch.full(clusters.shape, sure) + torch.linspace(-0.1, 0.1, len(clusters))[:, None]
        table = torch.from_numpy(clusters)
        predictions = Predictions(torch.arange(len(table)), table, {}, ClipStatistics(each, each, each, each), {})
        result = evaluate_heads("test", clusters, labels, choose_head(clusters), num_clusters, {})
        num_heads = [f"heads.num_heads={clusters.shape[1]}", "labelling.head_groups=1"]
        config = load_config(None, [f"heads.num_clusters={num_clusters}", *num_heads])
        page = write_report(tmp_path / "run", result, predictions, labels, config)
        return page, page.read_text(encoding="utf-8")

    return make


# ---- labels and clusters ----


def test_cells_are_counted_and_the_main_label_of_each_cluster_hits() -> None:
    rows, clusters = np.array([0, 0, 1, 2, 2, 1, 1]), np.array([3, 3, 3, 0, 0, 1, 3])
    cells = count_cells(rows, clusters, 5)
    assert [part.tolist() for part in cells] == [[2, 1, 0, 1], [0, 1, 3, 3], [2, 1, 2, 2]]
    assert hits(cells, rows, clusters, 5).tolist() == [True, True, False, True, True, True, False]


def test_summaries_are_the_purest_first() -> None:
    rows, clusters = np.array([0, 0, 1, 1, 2, 2, 0]), np.array([0, 0, 0, 0, 2, 2, 4])
    sizes, confidence = np.array([4, 0, 2, 0, 2]), np.array([1, 0.5, 0.5, 1, 0.25, 0.75, 0.4])
    cells = count_cells(rows, clusters, 5)
    found = summarise(cells, np.array(["a", "b", "c"]), sizes, clusters, confidence, 5)
    assert [entry.cluster for entry in found] == [2, 4, 0]
    assert found[0].purity == 1 and found[0].entropy == 0 and found[0].confidence == 0.5
    assert found[2].entropy == pytest.approx(np.log(2))
    assert found[2].labels == (("a", 0.5), ("b", 0.5))


def test_a_permuted_identity_becomes_a_diagonal() -> None:
    generator = np.random.default_rng(0)
    rows = np.repeat(np.arange(12), 9)
    clusters = generator.permutation(12)[rows]
    labels, found, matrix = ordered_matrix(count_cells(rows, clusters, 12), 12)
    assert np.array_equal(matrix, 9 * np.eye(12, dtype=int))
    assert sorted(labels.tolist()) == sorted(found.tolist()) == list(range(12))


def test_labels_that_share_clusters_are_neighbours_and_every_clip_is_counted() -> None:
    rows = np.array([0] * 8 + [1] * 8 + [2] * 8 + [3] * 8)
    clusters = np.array([5, 6] * 4 + [1, 2] * 4 + [5, 6] * 4 + [1, 2] * 4)  # 0 and 2 share 5, 6; 1 and 3 share 1, 2
    labels, found, matrix = ordered_matrix(count_cells(rows, clusters, 9), 4)
    place = labels.tolist().index
    assert abs(place(0) - place(2)) == 1 and abs(place(1) - place(3)) == 1
    assert matrix.sum() == 32
    assert set(found[:2].tolist()) in ({5, 6}, {1, 2})


@pytest.mark.parametrize(("num_labels", "num_clusters"), [(1, 1), (1, 6), (2, 5), (7, 1), (7, 3), (3, 7)])
def test_any_shape_is_ordered_without_loss(num_labels: int, num_clusters: int) -> None:
    generator = np.random.default_rng(num_labels)
    rows, clusters = generator.integers(num_labels, size=60), generator.integers(num_clusters, size=60)
    labels, found, matrix = ordered_matrix(count_cells(rows, clusters, num_clusters), num_labels)
    for row, label in enumerate(labels):
        for column, cluster in enumerate(found):
            assert matrix[row, column] == ((rows == label) & (clusters == cluster)).sum()
    assert matrix.sum() == 60


def test_the_most_frequent_are_shown_where_there_are_too_many() -> None:
    rows = np.repeat(np.arange(6), [1, 5, 2, 9, 1, 7])
    labels, found, matrix = ordered_matrix(count_cells(rows, rows, 6), 6, largest=3)
    assert set(labels.tolist()) == set(found.tolist()) == {1, 3, 5}
    assert sorted(np.diag(matrix).tolist()) == [5, 7, 9]


def test_calibration_bins_hold_equally_many_clips_and_equal_values_stay_together() -> None:
    confidence, hit = np.arange(100) / 100, np.arange(100) >= 50
    bins = calibration(confidence, hit, 4)
    assert [n for *_, n in bins] == [25] * 4
    assert [right for _, right, _ in bins] == [0, 0, 1, 1]
    assert bins[0][0] == pytest.approx(0.12)
    assert calibration(np.ones(9), np.ones(9, bool)) == [(1.0, 1.0, 9)]
    mixed = calibration(np.array([0.5, 1, 1, 1, 1, 1, 1, 1]), np.ones(8, bool), 4)
    assert [n for *_, n in mixed] == [1, 7]


def test_targets_are_the_marginals_shares_of_the_clips(tiny: Callable[..., Config]) -> None:
    assert target_sizes(tiny(), 0, 80).tolist() == pytest.approx([10.0] * 8)  # type: ignore[union-attr]
    zipf = target_sizes(tiny("labelling.marginal=zipf"), 0, 1000)
    assert zipf is not None and zipf[0] / zipf[3] == pytest.approx(4) and zipf.sum() == pytest.approx(1000)
    inverse = target_sizes(tiny("labelling.marginal=zipf", "labelling.marginal_order=inverse"), 0, 36)
    assert inverse is not None and inverse.tolist() == pytest.approx([8, 7, 6, 5, 4, 3, 2, 1])
    assert target_sizes(tiny("labelling.marginal=estimated"), 0, 80) is None


def test_targets_are_those_of_heads_of_the_second_modality_too_and_none_under_kmeans(
    tiny: Callable[..., Config],
) -> None:
    separate = tiny("labelling.source=own", "labelling.marginal=gaussian")
    first, second = target_sizes(separate, 1, 80), target_sizes(separate, 3, 80)
    assert first is not None and second is not None and first.tolist() == second.tolist()
    assert target_sizes(tiny("labelling.source=own", "labelling.method=kmeans"), 0, 80) is None


def test_curves_of_a_resumed_run_are_joined(tmp_path: Path) -> None:
    (tmp_path / "metrics.1.csv").write_text("epoch,step,train/loss\n0,0,2.5\n0,10,2.0\n")
    (tmp_path / "metrics.csv").write_text("epoch,labelling/nmi,step,train/loss\n1,,10,1.9\n,0.5,12,\n1,nan,20,1.5\n")
    assert read_curves(tmp_path) == {
        "train/loss": [(0.0, 2.5), (10.0, 1.9), (20.0, 1.5)],
        "labelling/nmi": [(12.0, 0.5)],
    }
    assert read_curves(tmp_path / "none") == {}


# ---- the page ----


def test_the_page_needs_nothing_from_outside_and_its_figures_lie_beside_it(write: Write) -> None:
    generator = np.random.default_rng(0)
    labels = [f"class {value}" for value in generator.integers(4, size=200)]
    clusters = generator.integers(6, size=(200, 3))
    page, text = write(clusters, [*labels[:190], *[None] * 10], 6)
    assert page.name == "report_test.html" and page.parent.name == "eval"
    names = {path.name for path in (page.parent / "report_test").iterdir()}
    assert names == {f"{name}{suffix}" for name in ("sizes", "labels", "confidence") for suffix in (".svg", ".png")}
    links = re.findall(r'href="([^"]*)"', text)
    assert links and all((page.parent / link).exists() for link in links)
    pictures = re.findall(r'src="([^"]*)"', text)
    assert len(pictures) == 3 and all(picture.startswith("data:image/svg+xml;base64,") for picture in pictures)
    assert "<script" not in text and "https://" not in text
    assert "10 clips without one are left out" in text
    assert text.count("(chosen") == 1 and "oracle" in text
    assert "Purest and most mixed clusters" in text and "class 3" in text


def test_names_are_text_whatever_they_hold(write: Write) -> None:
    evil = "<script>alert(1)</script>&\"'"
    labels = [evil] * 30 + ["b"] * 30
    _, text = write(np.repeat([0, 1], 30)[:, None], labels, 2)
    assert "<script" not in text and "&lt;script&gt;" in text


def test_without_labels_the_page_says_so(write: Write) -> None:
    page, text = write(np.repeat([0, 1, 1], 20)[:, None], [None] * 60, 3)
    assert "No clip has a label" in text and "Oracle" not in text and "Purest" not in text
    assert {path.stem for path in (page.parent / "report_test").iterdir()} == {"sizes"}
    assert "2 of 3 clusters hold a clip; sizes run from 0 to 40 clips." in text


@pytest.mark.parametrize(("num_labels", "num_clusters"), [(1, 2), (70, 200)])
def test_few_and_many_labels_and_clusters(write: Write, num_labels: int, num_clusters: int) -> None:
    generator = np.random.default_rng(1)
    labels = [str(value) for value in generator.integers(num_labels, size=400)]
    _, text = write(generator.integers(num_clusters, size=(400, 1)), labels, num_clusters)
    assert "Labels and clusters" in text


def test_cluster_eval_writes_it(finished_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shutil.copytree(finished_run, tmp_path / "run")
    assert cluster_eval.main([str(folder), "--split", "test", "--views", "1", "--report"]) == 0
    page = folder / "eval" / "report_test.html"
    assert f"report: {page}" in capsys.readouterr().err
    text = page.read_text(encoding="utf-8")
    assert "Training loss" in text and "Labellings" in text and "16 clips in 8 clusters" in text
