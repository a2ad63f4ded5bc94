"""Clusterings side by side, several seeds each: recipes that were trained, and K-means on features that were not.

A row is one measurement: {name, seed, split, nmi, ami, ari, ...}.  Rows of one name and split differ in the seed.
"""

import csv
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from selavi.atomic import write_text
from selavi.config import Config, as_dict, chosen, load_config, make_label_sets
from selavi.errors import UsageError
from selavi.evaluation.charts import Bars, Chart, bar_chart
from selavi.evaluation.external import read_column
from selavi.guarded.json_file import as_written, read_json
from selavi.id_tables import load_array, read_ids
from selavi.ids import explain_missing, find_ids
from selavi.runs.folder import RunFolder
from selavi.scores.baselines import (
    METHODS,
    SCALINGS,
    cluster_features,
    require_clusters,
    require_finite,
    scale_features,
)
from selavi.scores.contingency import contingency_matrix
from selavi.scores.metrics import bootstrap_intervals, evaluate_clusters

if TYPE_CHECKING:  # torch takes seconds and memory, and arrays need none of it
    from selavi.inference.encode import ClipFeatures

Row = dict[str, Any]


@dataclass(frozen=True)
class ClusteringPlan:
    """How given features are clustered."""

    methods: Sequence[str]
    """Some of baselines.METHODS."""
    seeds: Sequence[int]
    """One for each random start; agglomerative clustering has none and is done once."""
    scaling: str
    """One of baselines.SCALINGS."""
    num_clusters: int = 0
    """K; 0: as many as the run has, or as there are distinct labels."""
    num_views: int = 3
    """Views of each clip of a run, whose features are averaged."""

    def __post_init__(self) -> None:
        unknown = [method for method in self.methods if method not in METHODS]
        if unknown:
            raise UsageError(f"no method {', '.join(unknown)}; there are {', '.join(METHODS)}")
        if self.scaling not in SCALINGS:
            raise UsageError(f"features are scaled by {', '.join(SCALINGS)}, got {self.scaling}")
        if self.num_clusters < 0 or self.num_views < 1:
            raise UsageError(f"clusters and views must be at least 1, got {self.num_clusters} and {self.num_views}")


Features = np.ndarray | Callable[[], np.ndarray]
"""Scaled features (N, D), or what makes them anew each time, where one copy of them is what fits into memory."""
Kinds = Mapping[str, tuple[Features, list[str]]]
"""Features and N labels, by kind of features."""

RECIPES: dict[str, tuple[str, ...]] = {
    "sela-video": ("modalities=[video]",),
    "sela-audio": ("modalities=[audio]",),
    "sela-both": ("labelling.source=own",),
    "concat": ("labelling.source=concat",),
    "swapped": ("labelling.source=cross",),
    "selavi": (),
    "deepcluster": ("modalities=[video]", "labelling.method=kmeans"),
    "deepcluster-audio": ("modalities=[audio]", "labelling.method=kmeans"),
    "sdc": ("labelling.source=own", "labelling.method=kmeans"),
    "xdc": ("labelling.source=cross", "labelling.method=kmeans"),
    "cdc": ("labelling.source=concat", "labelling.method=kmeans"),
    "cliquecnn": ("modalities=[video]", "labelling.method=cliques", "labelling.source=own"),
    "owens": ("modalities={video: video, sound: statistics}", "labelling.source=sound", "labelling.method=kmeans"),
    "iic": ("labelling.method=none", "loss.kind=mutual_information"),
}
"""Settings that make a recipe of any configuration of video and audio; docs/method.md explains each."""

FIGURES = ("nmi", "ami", "ari", "accuracy", "purity", "mean_entropy", "used_clusters", "n")
_SHOWN = ("nmi", "ami", "ari", "accuracy")


def check_recipes(names: Sequence[str], seeds: Sequence[int]) -> None:
    """Raise UsageError for recipes that are not there, or what is named twice."""
    unknown = [name for name in names if name not in RECIPES]
    if unknown:
        raise UsageError(f"no recipe {', '.join(unknown)}; there are {', '.join(RECIPES)}")
    if len(set(names)) < len(names) or len(set(seeds)) < len(seeds):
        raise UsageError(f"each recipe and each seed once, got {' '.join(names)} and {' '.join(map(str, seeds))}")


def recipe_row(name: str, seed: int, run_dir: Path, split: str) -> Row:
    """What `selavi evaluate` measured of a finished run; the head is the one chosen without labels.

    Beside the figures: the oracle's NMI, the mean NMI of the heads, and under own and cross labels that of each
    modality's heads.
    """
    path = RunFolder(run_dir).figures(split)
    measured = read_json(path, "measure the run again")
    with as_written(path, "measure the run again"):
        if not measured["labelled"]:
            raise UsageError(f"no clip of split {split} has a label, so recipes cannot be compared on it")
        heads = [entry["nmi"] for entry in measured["heads"]]
        other_figures = {"oracle_nmi": measured["oracle"]["nmi"], "mean_nmi": mean(heads)}
        other_figures |= _nmi_by_modality(load_config(None, RECIPES[name]), heads)
        figures = {figure: measured["chosen"][figure] for figure in FIGURES}
    return {"name": name, "seed": seed, "split": split, **figures, **other_figures}


def _nmi_by_modality(config: Config, heads: Sequence[float]) -> dict[str, float]:
    """Mean NMI of each modality's heads, where each has labels of its own."""
    num_sets = len(config.label_sets)
    if num_sets == 1:
        return {}
    label_sets = make_label_sets(config.labelling.source, config.branches, len(heads) // num_sets)
    return {
        f"{'+'.join(label_set.voters)}_nmi": mean(heads[column] for column in label_set.voting_columns)
        for label_set in label_sets
    }


def train_recipes(
    names: Sequence[str],
    seeds: Sequence[int],
    config_path: Path,
    settings: Sequence[str],
    splits: Sequence[str],
    folder: Path,
    train: Callable[[list[str]], int],
    measure: Callable[[list[str]], int],
) -> list[Row]:
    """Train and measure recipes, one seed of one recipe after the other, and write the table after each.

    A run lies in FOLDER/NAME-seedSEED-DIGEST, where the digest stands for the settings.  One that is finished is not
    trained again, one that was stopped goes on.

    Args:
        names: of RECIPES, in the order of the table.
        seeds: each recipe is trained with each.
        config_path: what the recipes change.
        settings: `section.key=value` for all recipes, which override the file's and are overridden by the recipe's.
        splits: to measure on.
        folder: of the runs and the table.
        train: arguments of `selavi train` -> exit code.
        measure: arguments of `selavi evaluate` -> exit code.

    Raises:
        UsageError: an unknown recipe, wrong settings, or a split without labels.
        RecipeFailed: a tool ended with another exit code than 0; it has said why.
    """
    check_recipes(names, seeds)
    rows: list[Row] = []
    jobs = [(name, seed) for seed in seeds for name in names]
    for number, (name, seed) in enumerate(jobs, 1):
        overrides = [*settings, *RECIPES[name], f"seed={seed}"]
        run_dir = folder / f"{name}-seed{seed}-{digest_of(load_config(config_path, overrides))}"
        print(f"\n{number}/{len(jobs)}: {name}, seed {seed}, in {run_dir}", file=sys.stderr)
        if not RunFolder(run_dir).status.exists():
            code = train(["--config", str(config_path), *overrides, f"run_dir={run_dir}", "resume=auto"])
            if code:
                raise RecipeFailed(code, name, seed)
        for split in splits:
            if not RunFolder(run_dir).figures(split).exists():
                with redirect_stdout(sys.stderr):
                    code = measure([str(run_dir), "--split", split])
                if code:
                    raise RecipeFailed(code, name, seed)
            rows.append(recipe_row(name, seed, run_dir, split))
        write_comparison(order_rows(rows, names), folder)
    return order_rows(rows, names)


class RecipeFailed(UsageError):
    """A tool ended early; the comparison ends with its exit code."""

    def __init__(self, exit_code: int, name: str, seed: int) -> None:
        super().__init__(f"{name} with seed {seed} ended early (see above); the same command goes on from here")
        self.exit_code = exit_code


def order_rows(rows: Iterable[Row], names: Sequence[str]) -> list[Row]:
    """Rows by name as given, then in their order: all seeds of a recipe together."""
    return sorted(rows, key=lambda row: names.index(row["name"]))


def digest_of(config: Config) -> str:
    """Hash the settings that differ from the defaults, so that runs are found again after a setting was added."""
    lines = sorted(f"{key}={value}" for key, value in chosen(as_dict(config)).items())
    return hashlib.blake2b("\n".join(lines).encode(), digest_size=4).hexdigest()


def features_of_clips(clips: "ClipFeatures", labels: Sequence[str | None], how: str) -> Kinds:
    """Scaled features and labels of the clips that have both: of each modality, and of several side by side.

    Args:
        clips: N clips; one that lacks a modality has zeros in its place beside the others.
        labels: of the N clips; None where there is none.
        how: one of baselines.SCALINGS, for each modality by itself, so that all count alike.

    Raises:
        UsageError: none of the clips has a label.
    """
    names = list(clips.features)
    is_labelled = np.array([label is not None for label in labels])
    kinds = {}
    for kind in [[name] for name in names] + ([names] if len(names) > 1 else []):
        kept = is_labelled & np.stack([clips.present[name].numpy() for name in kind]).any(0)
        if not kept.any():
            raise UsageError(f"none of the clips that have {' or '.join(kind)} has a label to score clusters by")
        present = {name: clips.present[name].numpy()[kept] for name in kind}
        parts = [_scale_present(clips.features[name].numpy()[kept], present[name], how) for name in kind]
        kept_labels = [label for label, keep in zip(labels, kept, strict=True) if keep and label is not None]
        kinds["+".join(kind)] = (np.concatenate(parts, 1), kept_labels)
    return kinds


def kinds_of_run(trained: "ClipFeatures", untrained: "ClipFeatures", labels: Sequence[str | None], how: str) -> Kinds:
    """features_of_clips, and the same of all modalities from encoders that saw no training: random features."""
    kinds = features_of_clips(untrained, labels, how)
    last = list(kinds)[-1]
    return {**features_of_clips(trained, labels, how), f"untrained {last}": kinds[last]}


def _scale_present(features: np.ndarray, present: np.ndarray, how: str) -> np.ndarray:
    scaled = np.zeros(features.shape, np.float32)
    if present.any():
        scaled[present] = scale_features(features[present], how)
    return scaled


def cluster_kinds(kinds: Kinds, split: str, num_clusters: int, plan: ClusteringPlan) -> list[Row]:
    """Cluster each kind once for each method and seed, and score the clusters on the same clips.

    Raises:
        UsageError: the clips cannot be clustered so (see cluster_features).
    """
    rows = []
    for kind, (features, labels) in kinds.items():
        for method in plan.methods:
            for seed in plan.seeds[:1] if method == "agglomerative" else plan.seeds:
                made = callable(features)
                values = features() if callable(features) else features
                try:
                    clusters = cluster_features(values, num_clusters, method=method, seed=seed, overwrite=made)
                except ValueError as error:
                    raise UsageError(f"{kind}: {error}") from error
                scores = evaluate_clusters(labels, clusters, num_clusters)
                heading = {"name": f"{method} on {kind}", "seed": seed, "split": split}
                figures = {figure: scores[figure] for figure in FIGURES}
                rows.append({**heading, **figures, **interval_of(labels, clusters, num_clusters)})
    return rows


def interval_of(labels: Sequence[str], clusters: np.ndarray, num_clusters: int) -> dict[str, float]:
    """The 95% interval of the NMI over resampled clips, as nmi_low and nmi_high."""
    interval = bootstrap_intervals(contingency_matrix(labels, clusters, num_clusters), ["nmi"])["nmi"]
    return {"nmi_low": interval.low, "nmi_high": interval.high}


def cluster_runs(
    runs: Sequence[Path],
    splits: Sequence[str],
    plan: ClusteringPlan,
    encode: Callable[[Path, str, int, str], tuple[Kinds, int]],
) -> list[Row]:
    """Cluster the features of runs.

    Args:
        runs: their folders.
        splits: clips to cluster, each by itself.
        plan: how.
        encode: (run, split, number of views, scaling) -> its kinds of features, and its K.
    """
    rows = []
    for run in runs:
        for split in splits:
            kinds, num_clusters = encode(run, split, plan.num_views, plan.scaling)
            named = {f"{kind} of {run.name}" if len(runs) > 1 else kind: features for kind, features in kinds.items()}
            rows += cluster_kinds(named, split, plan.num_clusters or num_clusters, plan)
    return rows


def cluster_arrays(arrays: Sequence[Path], ids: Path | None, labels: Path | None, plan: ClusteringPlan) -> list[Row]:
    """K-means and others on arrays of features, each by itself, and of several all of them side by side.

    Args:
        arrays: .npy files (N, D), whose rows are the same clips.
        ids: N lines of text, or as id_tables.read_ids takes them.
        labels: CSV or Parquet with the columns id and label, as they are written; clips without a label are left out.
        plan: how.

    Raises:
        UsageError: files that cannot be read or do not match, or no label at all.
    """
    if ids is None or labels is None:
        raise UsageError("arrays need --ids (a line for each row) and --labels (a table with the columns id and label)")
    names = read_ids(ids)
    given_labels, notes = read_id_labels(labels, names["id"])
    for note in [*names.notes, *notes]:
        print(f"note: {note}", file=sys.stderr)
    if given_labels.null_count == len(given_labels):
        raise UsageError(f"none of the {len(names)} ids has a label in {labels}")
    if given_labels.null_count:
        print(f"note: {given_labels.null_count} of {len(names)} ids have no label and are left out", file=sys.stderr)
    is_labelled = given_labels.is_valid().to_numpy()
    kept = given_labels.drop_null().to_pylist()
    if len({path.stem for path in arrays}) < len(arrays):
        raise UsageError(f"two of the arrays have one name: {', '.join(map(str, arrays))}")
    num_clusters = plan.num_clusters or len(set(kept))
    for method in plan.methods:
        try:
            require_clusters(len(kept), num_clusters, method)
        except ValueError as error:
            raise UsageError(f"{arrays[0].stem}: {error}") from error
    opened = {path.stem: read_features(path, len(names)) for path in arrays}
    for name, values in opened.items():
        try:
            require_finite(values, is_labelled)
        except ValueError as error:
            raise UsageError(f"{name}: {error}") from error
    kinds: dict[str, tuple[Features, list[str]]] = {
        "+".join(group): (partial(_scale_together, [opened[name] for name in group], plan.scaling, is_labelled), kept)
        for group in [[name] for name in opened] + ([list(opened)] if len(opened) > 1 else [])
    }
    return cluster_kinds(kinds, "all", num_clusters, plan)


def _scale_together(arrays: Sequence[np.ndarray], how: str, rows: np.ndarray) -> np.ndarray:
    """Some rows of several arrays side by side, each scaled by itself: one float32 copy, and a second of one array."""
    if len(arrays) == 1:
        return scale_features(arrays[0], how, rows=rows)
    ends = np.cumsum([values.shape[1] for values in arrays])
    together = np.empty((int(rows.sum()), ends[-1]), np.float32)
    for values, end in zip(arrays, ends.tolist(), strict=True):
        together[:, end - values.shape[1] : end] = scale_features(values, how, rows=rows)
    return together


def summarise(rows: Iterable[Row]) -> list[Row]:
    """One entry for each name and split: seeds, and of every figure its mean, standard deviation, lowest and highest.

    The standard deviation is that of the sample; None for a single seed.
    """
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["name"], row["split"]), []).append(row)
    entries = []
    for (name, split), group in groups.items():
        entry: Row = {"name": name, "split": split, "seeds": [row["seed"] for row in group]}
        for figure in group[0]:
            values = [row[figure] for row in group]
            if figure not in ("name", "seed", "split") and all(isinstance(value, int | float) for value in values):
                entry[figure] = {
                    "mean": mean(values),
                    "sd": stdev(values) if len(values) > 1 else None,
                    "low": min(values),
                    "high": max(values),
                }
        entries.append(entry)
    return entries


def format_summary(rows: Sequence[Row]) -> str:
    """A table to read: a line for each name and split, the mean and the standard deviation over the seeds."""
    summary = summarise(rows)
    width = max(len(entry["name"]) for entry in summary) + 2
    splits = max(len(entry["split"]) for entry in summary) + 2
    has_intervals = any("nmi_low" in entry for entry in summary)
    heading = f"{'nmi of other clips':>20}" if has_intervals else ""
    lines = [" " * width + f"{'':{splits}}{'seeds':>6}" + "".join(f"{name:>16}" for name in _SHOWN) + heading]
    for entry in summary:
        cells = "".join(f"{_mean_and_spread(entry[figure]):>16}" for figure in _SHOWN)
        interval = f"{_interval(entry):>20}" if has_intervals else ""
        lines.append(f"{entry['name']:{width}}{entry['split']:{splits}}{len(entry['seeds']):6d}{cells}{interval}")
    lines.append("mean +- standard deviation over the seeds; for trained recipes, of the head chosen without labels")
    if has_intervals:
        lines.append("nmi of other clips: 95% interval over resampled clips, its ends averaged over the seeds")
    return "\n".join(lines)


def _interval(entry: Row) -> str:
    low, high = entry.get("nmi_low"), entry.get("nmi_high")
    return "" if low is None or high is None else f"{low['mean']:.3f} to {high['mean']:.3f}"


def _mean_and_spread(figure: Mapping[str, float | None]) -> str:
    spread = figure["sd"]
    return f"{figure['mean']:.3f}" + ("" if spread is None else f" +- {spread:.3f}")


def write_comparison(rows: Sequence[Row], folder: Path, title: str = "Clusterings compared") -> list[Path]:
    """Write compare.json (rows and summary), compare.csv (rows) and compare.png (NMI) into a folder."""
    paths = [folder / f"compare.{suffix}" for suffix in ("json", "csv", "png")]
    write_text(paths[0], json.dumps({"rows": list(rows), "summary": summarise(rows)}, indent=2) + "\n")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(paths[1], text.getvalue())
    plot_summary(rows, title).save(paths[2])
    return paths


def plot_summary(rows: Sequence[Row], title: str) -> Chart:
    """NMI as bars: a group for each name, a bar for each split, whiskers from the lowest to the highest seed."""
    summary = summarise(rows)
    names = list(dict.fromkeys(entry["name"] for entry in summary))
    splits = list(dict.fromkeys(entry["split"] for entry in summary))
    cells = {(entry["name"], entry["split"]): entry["nmi"] for entry in summary}
    missing = {"mean": float("nan"), "low": float("nan"), "high": float("nan")}
    most = max(len(entry["seeds"]) for entry in summary)
    bars = []
    for split in splits:
        figures = [cells.get((name, split), missing) for name in names]
        spread = {end: [cell[end] for cell in figures] for end in ("low", "high")} if most > 1 else {}
        bars.append(Bars(split, [cell["mean"] for cell in figures], **spread))
    about = f"NMI, mean of up to {most} seeds (whiskers: lowest and highest seed)" if most > 1 else "NMI, one seed"
    return bar_chart(names, bars, title=title, value_label=about)


def read_features(path: Path, num_rows: int) -> np.ndarray:
    """An .npy file of (N, D) numbers, memory-mapped; nothing in it is run.

    Raises:
        UsageError: it cannot be read, or has another shape than the ids say.
    """
    features = load_array(path)
    if features.ndim != 2 or features.dtype.kind not in "fiu":
        raise UsageError(f"expected one array (N, D) of numbers in {path}, found {features.dtype} {features.shape}")
    if len(features) != num_rows:
        raise UsageError(f"{path} has {len(features)} rows, but there are {num_rows} ids")
    return features


def read_id_labels(path: Path, ids: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[str]]:
    """Labels of the ids, in their order, from the columns id and label of a CSV or Parquet file.

    Returns:
        (N,) large_string as they are written, null where there is none; and what was guessed or left out.

    Raises:
        UsageError: as external.read_column, or the file does not know all ids; with counts and what differs.
    """
    table = read_column(path, "label")
    match, notes = find_ids(ids, table["id"]), table.notes
    unknown = ids.filter(pa.array(match.place < 0))
    if len(unknown):
        similar = explain_missing(unknown.slice(0, 1000).to_pylist(), table["id"].to_pylist())
        raise UsageError(
            f"{len(unknown)} of {len(ids)} ids have no row among the {len(table)} of {path}, such as "
            f"{unknown[0].as_py()!r}{similar and '; ' + similar}"
        )
    if match.num_respelt:
        notes.append(f"{match.num_respelt} ids match those of {path} in another Unicode form")
    if len(table) > len(ids):
        notes.append(f"{len(table) - len(ids)} of {len(table)} rows of {path} belong to none of the ids")
    return table["label"].take(pa.array(match.place)), notes
