"""Arrays of features as modalities of SeLaVi: trained, scored, and clustered once more by K-means afterwards."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selavi.config import Config, load_config
from selavi.errors import UsageError
from selavi.evaluation.compare import (
    FIGURES,
    ClusteringPlan,
    RecipeFailed,
    Row,
    cluster_kinds,
    digest_of,
    interval_of,
    read_id_labels,
)
from selavi.id_tables import read_ids
from selavi.results.labels import read_labels
from selavi.runs.folder import RunFolder
from selavi.scores.baselines import scale_features
from selavi.scores.head_choice import choose_head
from selavi.scores.metrics import evaluate_clusters

SOURCES = ("joint", "concat", "own", "cross", "alone")
"""What `--learn` knows: labelling.source over all arrays, or `alone`: a run on each array by itself."""

Encode = Callable[[Path, pa.ChunkedArray], Mapping[str, np.ndarray]]
"""(run, N ids) -> features (N, D) a modality."""


@dataclass(frozen=True)
class ArrayFiles:
    """Arrays whose rows are the same clips.

    Attributes:
        arrays: .npy files (N, D).
        ids: of the rows.
        labels: by id.
    """

    arrays: Sequence[Path]
    ids: Path
    labels: Path


def learn_arrays(
    sources: Sequence[str],
    files: ArrayFiles,
    plan: ClusteringPlan,
    config_path: Path,
    settings: Sequence[str],
    folder: Path,
    train: Callable[[list[str]], int],
    encode: Encode,
) -> list[Row]:
    """Train on arrays as modalities, one seed of one source after the other, and score the labels of their clips.

    All clips are trained on, also those without a label.  A run lies in FOLDER/NAME-seedSEED-DIGEST; one that is
    finished is not trained again.  The head is the one chosen without labels.

    Args:
        sources: some of SOURCES.
        files: the arrays.
        plan: seeds, number of clusters, and how features are scaled for K-means.
        config_path: what the runs change.
        settings: `section.key=value` for all runs.
        folder: of the runs.
        train: arguments of `selavi train` -> exit code.
        encode: gives the features of a finished run, for K-means after the training; it is left out where the
            encoders have no layers, for there its features are the arrays.

    Raises:
        UsageError: wrong settings, or no labels.
        RecipeFailed: a training ended early.
    """
    ids = read_ids(files.ids)["id"]
    labels = read_id_labels(files.labels, ids)[0]
    num_clusters = plan.num_clusters or pc.count_distinct(labels).as_py()
    jobs = [(name, own, seed) for seed in plan.seeds for name, own in _runs(sources, files)]
    rows: list[Row] = []
    for number, (name, own, seed) in enumerate(jobs, 1):
        words = [*own, f"heads.num_clusters={num_clusters}", "data.layout=flat", *settings, f"seed={seed}"]
        config = load_config(config_path, words)
        run_dir = folder / f"{name.replace(' ', '-')}-seed{seed}-{digest_of(config)}"
        print(f"\n{number}/{len(jobs)}: {name}, seed {seed}, in {run_dir}", file=sys.stderr)
        if not RunFolder(run_dir).status.exists():
            code = train(["--config", str(config_path), *words, f"run_dir={run_dir}", "resume=auto"])
            if code:
                raise RecipeFailed(code, name, seed)
        rows.append(_row(name, seed, run_dir, config, ids, labels))
        if any(config.section(modality).layers for modality in config.kinds):
            rows += _kmeans_after(name, seed, encode(run_dir, ids), labels, config.heads.num_clusters, plan)
    order = list(dict.fromkeys(row["name"] for row in rows))
    return sorted(rows, key=lambda row: order.index(row["name"]))


def names_of(arrays: Sequence[Path]) -> list[str]:
    """A name that a modality may have for each array, after its file."""
    plain = [re.sub("[^a-z0-9_]+", "_", path.stem.lower()).strip("_") for path in arrays]
    names = [f"{text if text[:1].isalpha() else f'array_{text}'}_vectors" for text in plain]
    if len(set(names)) < len(names):
        raise UsageError(f"the names of {', '.join(map(str, arrays))} are too much alike: rename one")
    return names


def _runs(sources: Sequence[str], files: ArrayFiles) -> list[tuple[str, list[str]]]:
    """Names of the runs, and the settings of each."""
    names = names_of(files.arrays)
    paths = dict(zip(names, files.arrays, strict=True))
    runs = []
    for source in sources:
        if source == "alone":
            runs += [(f"{path.stem} alone", _modalities({name: path}, files.ids)) for name, path in paths.items()]
        else:
            runs.append((source, [*_modalities(paths, files.ids), f"labelling.source={source}"]))
    return runs


def _modalities(paths: Mapping[str, Path], ids: Path) -> list[str]:
    settings = [f"modalities={{{', '.join(f'{name}: features' for name in paths)}}}"]
    for name, path in paths.items():
        settings += [f"{name}.file={path.absolute()}", f"{name}.ids={ids.absolute()}"]
    return settings


def _row(name: str, seed: int, run_dir: Path, config: Config, ids: pa.ChunkedArray, labels: pa.ChunkedArray) -> Row:
    """Scores of the head that is chosen without labels, and beside them the best head's and the mean of all."""
    table = read_labels(run_dir, config.data.train_split)
    clusters = table.clusters
    head = choose_head(clusters, probe=table.probe).head
    ordered = labels.take(pc.index_in(table.ids, value_set=ids.cast(pa.large_string()).combine_chunks()))
    is_labelled = ordered.is_valid().to_numpy(zero_copy_only=False)
    named, num_clusters = ordered.drop_null().to_pylist(), config.heads.num_clusters
    scores = [
        evaluate_clusters(named, clusters[is_labelled, column], num_clusters) for column in range(clusters.shape[1])
    ]
    nmi = [entry["nmi"] for entry in scores]
    figures = {figure: scores[head][figure] for figure in FIGURES}
    others = {"oracle_nmi": max(nmi), "mean_nmi": mean(nmi)}
    interval = interval_of(named, clusters[is_labelled, head], num_clusters)
    return {"name": name, "seed": seed, "split": "all", **figures, **interval, **others}


def _kmeans_after(
    name: str,
    seed: int,
    features: Mapping[str, np.ndarray],
    labels: pa.ChunkedArray,
    num_clusters: int,
    plan: ClusteringPlan,
) -> list[Row]:
    """K-means on what the trained encoders say."""
    is_labelled = labels.is_valid().to_numpy()
    parts = [scale_features(values, plan.scaling, rows=is_labelled) for values in features.values()]
    kinds = {f"the features of {name}": (np.concatenate(parts, 1), labels.drop_null().to_pylist())}
    of_seed = ClusteringPlan(["kmeans"], [seed], plan.scaling, num_clusters, plan.num_views)
    return cluster_kinds(kinds, "all", num_clusters, of_seed)
