"""One HTML page on the clusters of a run: scores of all heads, sizes, labels, confidence, training.

The page holds everything it shows, in light and dark; its figures also lie beside it as SVG and PNG.
Axes: N clips, L labels, K clusters.
"""

import csv
import math
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup

from selavi.atomic import write_text
from selavi.config import Config
from selavi.evaluation.charts import Chart, Curve, line_chart, matrix_chart, size_chart
from selavi.evaluation.report import COLUMNS, reason_of_choice
from selavi.guarded.json_file import as_written
from selavi.inference.predict import Predictions
from selavi.labelling.methods.transport import marginal_of_head
from selavi.runs.folder import RunFolder
from selavi.scores.metrics import Metrics

LARGEST_MATRIX = 400  # labels and clusters that are shown, the most frequent ones
NAMED_ROWS = 60  # up to so many are named at the matrix
SHOWN_CLUSTERS = 8  # of the purest and of the most mixed
SMALLEST_SHOWN = 5  # labelled clips of a cluster in these lists
NUM_BINS = 10  # of the confidence, of equally many clips
_COLUMN_NAMES = {
    "nmi": "NMI",
    "ami": "AMI",
    "ari": "ARI",
    "accuracy": "Accuracy",
    "purity": "Purity",
    "mean_purity": "Mean purity",
    "mean_entropy": "Entropy",
    "used_clusters": "Used",
    "agreement": "Agreement",
    "size_min": "Smallest",
    "size_median": "Median size",
    "size_max": "Largest",
    "size_entropy": "Size entropy",
}


@dataclass(frozen=True)
class ClusterSummary:
    """What labels say of one cluster.

    Attributes:
        cluster: its number.
        size: its clips.
        purity: share of its labelled clips that carry the most common label.
        entropy: of the labels inside, in nats.
        confidence: mean over its clips.
        labels: the three most common labels of at least half a percent, and their shares.
    """

    cluster: int
    size: int
    purity: float
    entropy: float
    confidence: float
    labels: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class _Section:
    """A figure with its place on the page."""

    name: str
    title: str
    chart: Chart
    text: str


def write_report(
    run_dir: Path, result: dict[str, Any], predictions: Predictions, labels: list[str | None], config: Config
) -> Path:
    """Write RUN/eval/report_SPLIT.html, and its figures into RUN/eval/report_SPLIT/.

    Args:
        run_dir: the run, for its name and the curves of metrics.csv.
        result: of evaluate_heads, for the same clips; its chosen head is the one that is shown.
        predictions: clusters and confidence of n clips under every head.
        labels: (n,) human labels, None where there is none; without any the page says less.
        config: of the run.

    Returns:
        The path of the page.
    """
    head, split = int(result["chosen"]["head"]), str(result["split"])
    clusters, confidence = predictions.clusters[:, head].numpy(), predictions.statistics.confidence[:, head].numpy()
    num_clusters = config.heads.num_clusters
    sizes = np.bincount(clusters, minlength=num_clusters)
    figures = [_size_figure(sizes, target_sizes(config, head, len(clusters)))]
    summaries: list[ClusterSummary] = []
    is_labelled = np.array([label is not None for label in labels])
    if is_labelled.any():
        names, rows = np.unique(np.array(labels, dtype=object)[is_labelled].astype(str), return_inverse=True)
        cells = count_cells(rows, clusters[is_labelled], num_clusters)
        summaries = summarise(cells, names, sizes, clusters, confidence, num_clusters)
        figures.append(_matrix_figure(cells, names))
        figures += _calibration_figure(confidence[is_labelled], hits(cells, rows, clusters[is_labelled], num_clusters))
    figures += _training_figures(read_curves(run_dir), num_clusters)
    page = RunFolder(run_dir).report(split)
    folder = page.with_suffix("")
    for shown in figures:
        for suffix in (".svg", ".png"):
            shown.chart.save(folder / f"{shown.name}{suffix}")
    write_text(page, _render(run_dir, result, config, figures, summaries, len(clusters), folder.name))
    return page


def target_sizes(config: Config, head: int, num_clips: int) -> np.ndarray | None:
    """The sizes that the run's marginal asks for, (K,) from the largest, scaled to so many clips.

    None where the marginal is estimated from the clusters themselves, or the labelling method promises no sizes.
    """
    if not config.labelling_method.has_plan:
        return None
    marginal = marginal_of_head(config, config.head_of_column(head)[1])
    if marginal is None:
        return None
    if config.labelling.marginal_order == "inverse":  # what the transport is then given: see order_marginal
        marginal = marginal.reciprocal() / marginal.reciprocal().sum()
    return marginal.sort(descending=True).values.numpy() * num_clips


# ---- labels and clusters ----

Cells = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Label, cluster and number of clips of each pair that occurs, by cluster and, within it, from the most common."""


def count_cells(rows: np.ndarray, clusters: np.ndarray, num_clusters: int) -> Cells:
    """Count the clips of each label (N,) in each cluster (N,); no L x K table."""
    cells, counts = np.unique(rows.astype(np.int64) * num_clusters + clusters, return_counts=True)
    label, cluster = cells // num_clusters, cells % num_clusters
    order = np.lexsort((label, -counts, cluster))
    return label[order], cluster[order], counts[order]


def hits(cells: Cells, rows: np.ndarray, clusters: np.ndarray, num_clusters: int) -> np.ndarray:
    """(N,) bool: the clip carries the most common label of its cluster."""
    label, cluster, _ = cells
    used, first = np.unique(cluster, return_index=True)
    top = np.full(num_clusters, -1)
    top[used] = label[first]
    return top[clusters] == rows


def summarise(
    cells: Cells,
    names: np.ndarray,
    sizes: np.ndarray,
    clusters: np.ndarray,
    confidence: np.ndarray,
    num_clusters: int,
) -> list[ClusterSummary]:
    """Describe every cluster with labels, the purest first, of equally pure ones the largest."""
    label, cluster, counts = cells
    mean_confidence = np.bincount(clusters, confidence, num_clusters) / np.maximum(sizes, 1)
    used, first = np.unique(cluster, return_index=True)
    summaries = []
    for number, start, end in zip(used.tolist(), first, [*first[1:], len(cluster)], strict=True):
        shares = counts[start:end] / counts[start:end].sum()
        top = tuple(
            (str(names[label[i]]), float(shares[i - start]))
            for i in range(start, min(end, start + 3))
            if shares[i - start] >= 0.005
        )
        entropy = max(0.0, float(-(shares * np.log(shares)).sum()))
        summaries.append(
            ClusterSummary(number, int(sizes[number]), top[0][1], entropy, float(mean_confidence[number]), top)
        )
    return sorted(summaries, key=lambda entry: (-entry.purity, -entry.size, entry.cluster))


def ordered_matrix(cells: Cells, num_labels: int, largest: int = LARGEST_MATRIX) -> tuple[np.ndarray, ...]:
    """Choose and order labels and clusters so that what belongs together lies together.

    Labels that share clusters become neighbours (optimal leaf ordering); each cluster stands in the column of the
    label it is matched with (Hungarian), further clusters after it by the mean place of their labels.

    Args:
        cells: of count_cells.
        num_labels: L.
        largest: most labels and clusters, the most frequent ones.

    Returns:
        labels (l,), clusters (k,) and counts (l, k), in order; rows of labels without a clip in these clusters stay.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.optimize import linear_sum_assignment

    label, cluster, counts = cells
    label_sizes = np.bincount(label, counts, num_labels)
    cluster_sizes = np.bincount(cluster, counts)
    labels = np.sort(np.argsort(-label_sizes, kind="stable")[:largest])
    clusters = np.sort(np.argsort(-cluster_sizes, kind="stable")[: min(largest, int((cluster_sizes > 0).sum()))])
    shown = np.isin(label, labels) & np.isin(cluster, clusters)
    matrix = np.zeros((len(labels), len(clusters)), np.int64)
    matrix[np.searchsorted(labels, label[shown]), np.searchsorted(clusters, cluster[shown])] = counts[shown]
    if len(labels) > 2:
        profile = np.sqrt(matrix / np.maximum(matrix.sum(1, keepdims=True), 1))  # Hellinger: distances are bounded
        order = leaves_list(linkage(profile, "average", optimal_ordering=True))
        labels, matrix = labels[order], matrix[order]
    place = (matrix * np.arange(len(labels))[:, None]).sum(0) / np.maximum(matrix.sum(0), 1)
    matched_rows, matched_columns = linear_sum_assignment(matrix, maximize=True)
    place[matched_columns] = matched_rows - 0.5  # before those that only lie about there
    order = np.argsort(place, kind="stable")
    return labels, clusters[order], matrix[:, order]


def calibration(confidence: np.ndarray, hit: np.ndarray, num_bins: int = NUM_BINS) -> list[tuple[float, float, int]]:
    """Mean confidence, share of hits and number of clips, in bins of equally many clips; equal values stay together."""
    order = np.argsort(confidence, kind="stable")
    edges = {0, len(order)}
    for number in range(1, num_bins):
        value = confidence[order[number * len(order) // num_bins]]
        edges.add(int(np.searchsorted(confidence[order], value)))
    bins = sorted(edges)
    parts = [order[start:end] for start, end in pairwise(bins)]
    return [(float(confidence[part].mean()), float(hit[part].mean()), len(part)) for part in parts]


def read_curves(run_dir: Path) -> dict[str, list[tuple[float, float]]]:
    """(step, value) of each column of RUN/metrics.csv, with those of the earlier parts of a resumed run."""
    curves: dict[str, dict[float, float]] = {}
    parts = sorted(run_dir.glob("metrics.*.csv"), key=lambda path: int(path.name.split(".")[1]))
    for path in [*parts, RunFolder(run_dir).metrics]:
        if not path.exists():
            continue
        with path.open(newline="", encoding="utf-8") as file, as_written(path, "move it away: only curves are lost"):
            for row in csv.DictReader(file):
                for name, text in row.items():
                    if text and name not in ("step", "epoch") and math.isfinite(float(text)):
                        curves.setdefault(name, {})[float(row["step"])] = float(text)
    return {name: sorted(points.items()) for name, points in curves.items()}


# ---- figures ----


def _size_figure(sizes: np.ndarray, targets: np.ndarray | None) -> _Section:
    used = int((sizes > 0).sum())
    text = f"{used:,} of {len(sizes):,} clusters hold a clip; sizes run from {sizes.min():,} to {sizes.max():,} clips."
    if targets is not None:
        text += " The line is what the marginal asks for, scaled to these clips; both are sorted."
    return _Section("sizes", "Cluster sizes", size_chart(sizes, targets, title="Cluster sizes"), text)


def _matrix_figure(cells: Cells, names: np.ndarray) -> _Section:
    labels, clusters, matrix = ordered_matrix(cells, len(names))
    rows = [_shortened(str(names[label])) for label in labels] if len(labels) <= NAMED_ROWS else []
    columns = [str(cluster) for cluster in clusters.tolist()] if len(clusters) <= NAMED_ROWS else []
    chart = matrix_chart(matrix, rows, columns, title="Labels and clusters")
    text = "The stronger the tint, the larger the share of the cluster that has the label. Labels that share clusters "
    text += "are neighbours; a cluster stands under the label it is matched with."
    if len(labels) < len(names) or len(clusters) < len(np.unique(cells[1])):
        text += f" Shown are the {len(labels)} most frequent labels of {len(names):,} and the {len(clusters)} largest "
        text += f"clusters of {len(np.unique(cells[1])):,}."
    return _Section("labels", "Labels and clusters", chart, text)


def _shortened(text: str, longest: int = 28) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _calibration_figure(confidence: np.ndarray, hit: np.ndarray) -> list[_Section]:
    bins = calibration(confidence, hit)
    if len(bins) < 2:  # all clips equally confident: a point is no curve, and its figures are in the table
        return []
    sizes = np.array([size for *_, size in bins])
    middles = (100 * (sizes.cumsum() - sizes / 2) / sizes.sum()).tolist()  # confidences crowd near 1, ranks do not
    figure = line_chart(
        [
            Curve("mean confidence", middles, [mean for mean, _, _ in bins]),
            Curve("main label's share", middles, [share for _, share, _ in bins]),
        ],
        title="Confidence and purity",
        x_label="percent of the clips, from the least to the most confident",
        y_label="confidence, or share",
        x_range=(0.0, 100.0),
        y_range=(0.0, 1.0),
        size=(860, 360),
    )
    text = (
        f"Clips in {len(bins)} bins by their confidence. If it can be trusted, the share of clips that carry their "
        "cluster's most common label rises with it; where that share is lower, the model is overconfident. Over all "
        f"clips, the mean confidence is {confidence.mean():.2f} and the share {hit.mean():.2f}."
    )
    return [_Section("confidence", "Confidence and purity", figure, text)]


def _training_figures(curves: dict[str, list[tuple[float, float]]], num_clusters: int) -> list[_Section]:
    def line(name: str, column: str) -> list[Curve]:
        points = _thinned(curves.get(column, []))
        return [Curve(name, [x for x, _ in points], [y for _, y in points])] if len(points) > 1 else []

    charts: list[tuple[str, str, str, tuple[float, float] | None, list[Curve], str]] = [
        (
            "loss",
            "Training loss",
            "cross-entropy, nats",
            None,
            line("loss", "train/loss"),
            f"Cross-entropy with the pseudo-labels; guessing among {num_clusters:,} clusters costs "
            f"{math.log(num_clusters):.2f} nats.",
        ),
        (
            "labelling",
            "Labellings",
            "share, or NMI",
            (0.0, 1.0),
            [*line("churn", "labelling/churn"), *line("NMI with the labels", "labelling/nmi")],
            "Churn is the share of clips whose cluster a labelling changed. NMI, where there are labels, is the mean "
            "of the heads on the training clips.",
        ),
    ]
    modalities = [name.split("/")[1] for name in curves if name.endswith("/own_share")]
    if len(modalities) > 1:
        charts += [
            (
                "race",
                "The modalities' say",
                "share, or NMI",
                (0.0, 1.0),
                [
                    *(curve for name in modalities for curve in line(f"{name}'s own", f"labelling/{name}/own_share")),
                    *line("agreement of the modalities", "labelling/agreement"),
                ],
                "At each labelling: the share of labels that are the likeliest cluster of a modality alone, and how "
                "far the modalities alone agree (NMI). Where one share nears 1 and the other falls, labels are what "
                "one modality tells; the agreement shows whether anything is shared.",
            ),
            (
                "learned",
                "What each modality learns",
                "cross-entropy, nats",
                None,
                [curve for name in modalities for curve in line(name, f"labelling/{name}/cross_entropy")],
                f"Cross-entropy of each modality with the labels, just labelled; one that cannot learn them stays at "
                f"ln {num_clusters:,} = {math.log(num_clusters):.2f}.",
            ),
        ]
    return [
        _Section(
            name,
            title,
            line_chart(lines, title=title, x_label="step", y_label=unit, y_range=limits, size=(860, 340)),
            text,
        )
        for name, title, unit, limits, lines, text in charts
        if lines
    ]


def _thinned(points: list[tuple[float, float]], most: int = 60) -> list[tuple[float, float]]:
    """Means of neighbours, so that a long run gives a line and no cloud."""
    if len(points) <= most:
        return points
    parts = np.array_split(np.array(points), most)
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts]


# ---- the page ----


def _render(
    run_dir: Path,
    result: dict[str, Any],
    config: Config,
    figures: list[_Section],
    summaries: list[ClusterSummary],
    num_clips: int,
    folder: str,
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("selavi.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(grouped="{:,}".format, percent="{:.0%}".format, two="{:.2f}".format)
    assert environment.loader is not None
    style = environment.loader.get_source(environment, "report.css")[0]
    columns = [*(COLUMNS if result["labelled"] else _UNLABELLED), "agreement"]
    listed = [entry for entry in summaries if entry.size >= SMALLEST_SHOWN]
    half = min(SHOWN_CLUSTERS, (len(listed) + 1) // 2)
    return environment.get_template("report.html.j2").render(
        run=run_dir.resolve().name,
        split=result["split"],
        labelled=result["labelled"],
        num_clips=num_clips,
        num_unlabelled=result["unlabelled_clips"],
        num_clusters=config.heads.num_clusters,
        modalities=config.kinds,
        chosen=result["chosen"],
        oracle=result.get("oracle"),
        headline=[(_title(name), _cell(result["chosen"], name)) for name in columns[:5]],
        columns=[_title(name) for name in columns],
        reason=reason_of_choice(result),
        consensus="consensus" in result,
        rows=_rows(result, columns),
        figures=[(shown, b64encode(shown.chart.svg(with_title=False).encode()).decode()) for shown in figures],
        folder=folder,
        purest=listed[:half],
        mixed=sorted(listed[half:], key=lambda entry: -entry.entropy)[:SHOWN_CLUSTERS],
        smallest=SMALLEST_SHOWN,
        style=Markup(style),  # our own file
        policy=f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src 'sha256-{b64encode(sha256(style.encode()).digest()).decode()}'",
    )


_COUNTS = ("used_clusters", "size_min", "size_median", "size_max")
_UNLABELLED = ("used_clusters", "size_min", "size_median", "size_max", "size_entropy")


def _rows(result: dict[str, Any], columns: list[str]) -> list[tuple[str, list[str], bool]]:
    """Name, cells and whether it is the chosen head, of each line of the table."""
    heads = result["heads"]
    chosen, oracle = result["chosen"]["head"], result.get("oracle", {}).get("head")
    rows = []
    for number, entry in enumerate(heads):
        marks = [text for text, head in (("chosen", chosen), ("oracle", oracle)) if head == number]
        name = f"head {number}" + (f" ({', '.join(marks)})" if marks else "")
        rows.append((name, [_cell(entry, column) for column in columns], number == chosen))
    if len(heads) > 1:
        scored = [name for name in columns if heads[0].get(name) is not None]
        mean = {name: float(np.mean([entry[name] for entry in heads])) for name in scored}
        rows.append(("mean", [_cell(mean, column) for column in columns], False))
    if "consensus" in result:
        rows.append(("consensus", [_cell(result["consensus"], column) for column in columns], False))
    return rows


def _title(name: str) -> str:
    return _COLUMN_NAMES.get(name, name.replace("_", " "))


def _cell(entry: dict[str, Any] | Metrics, name: str) -> str:
    value = entry.get(name)
    if value is None:
        return "–"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.1f}" if name in _COUNTS else f"{value:.3f}"
