"""Compare clusterings over several seeds: recipes trained with one budget, or K-means on features of runs or arrays."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selavi.cli import Command, Parser
from selavi.commands.recipes import find_recipe
from selavi.errors import UsageError
from selavi.wording import command


@dataclass(frozen=True)
class CompareArguments:
    """What is compared: one of recipes, runs and arrays; and how."""

    recipes: Sequence[str] | None = None
    runs: Sequence[Path] | None = None
    arrays: Sequence[Path] | None = None
    learn: Sequence[str] = ()
    config: Path | None = None
    settings: Sequence[str] = ()
    seeds: Sequence[int] = (0, 1, 2)
    splits: Sequence[str] = ("train", "test")
    views: int = 3
    ids: Path | None = None
    labels: Path | None = None
    clusters: int = 0
    methods: Sequence[str] = ("kmeans",)
    scale: str = "standardise+l2"
    out: Path = Path("runs/compare")
    root: str = ""


@dataclass(frozen=True)
class CompareResult:
    """A row for each name, seed and split, and the files that hold them."""

    rows: list[dict[str, Any]]
    paths: Sequence[Path]


def add_arguments(parser: Parser) -> None:
    """Describe the command line."""
    recipes = ("sela-video", "concat", "xdc", "selavi")
    tables = ("--ids", "ids.txt", "--labels", "labels.csv")
    parser.add_example(
        command("compare", "--config", "small", "--recipes", *recipes, "data.root=/videos"),
        command("compare", "--runs", "runs/a", "runs/b"),
        command("compare", "--arrays", "clip.npy", "clap.npy", *tables, "--learn", "joint", "alone"),
    )
    what = parser.add_mutually_exclusive_group(required=True)
    about = "recipes to train, unless they are finished; section.key=value sets something for all of them"
    what.add_argument("--recipes", nargs="+", metavar="NAME", help=about)
    about = "run folders, whose features are clustered: of each modality, of all together, and of untrained encoders"
    what.add_argument("--runs", type=Path, nargs="+", metavar="RUN", help=about)
    about = "features (N, D), a file each; several are also clustered side by side"
    what.add_argument("--arrays", type=Path, nargs="+", metavar="FILE.npy", help=about)
    about = "also train on the arrays as modalities: joint, concat, own or cross labels, or each array `alone`; where "
    about += "their encoders have layers (features.layers=[256]), K-means on what these have learned too"
    parser.add_argument("--learn", nargs="+", metavar="SOURCE", help=about)
    about = "configuration that recipes change (default: demo), or runs on arrays (default: features)"
    parser.add_argument("--config", type=Path, metavar="NAME", help=about)
    parser.add_argument(
        "--seeds", type=int, nargs="+", metavar="SEED", help="seeds of each clustering (default: 0 1 2)"
    )
    parser.add_argument("--splits", nargs="+", metavar="SPLIT", help="clips to score (default: train test)")
    about = "number of evenly spaced views of each clip; their features are averaged (default: 3)"
    parser.add_argument("--views", type=int, metavar="N", help=about)
    about = "text file with the ids of the arrays' rows, one a line"
    parser.add_argument("--ids", type=Path, metavar="FILE", help=about)
    about = "CSV or Parquet file of labels for the arrays' rows, with columns id and label"
    parser.add_argument("--labels", type=Path, metavar="FILE", help=about)
    about = "number of clusters (default: that of the run, or the number of labels)"
    parser.add_argument("--clusters", type=int, metavar="K", help=about)
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="kmeans (default), spectral, agglomerative")
    about = "how features are scaled: standardise, l2, none or standardise+l2 (default)"
    parser.add_argument("--scale", help=about)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder for the results (default: runs/compare)")
    parser.take_root()
    parser.take_scattered_settings("--recipes", "--learn")


def compare(arguments: CompareArguments) -> CompareResult:
    """Train and measure recipes, or cluster features."""
    from selavi.commands.main import find_command
    from selavi.evaluation import compare as cp

    plan = cp.ClusteringPlan(
        list(arguments.methods), list(arguments.seeds), arguments.scale, arguments.clusters, arguments.views
    )
    config_path = _check(arguments)
    if arguments.recipes:
        rows = cp.train_recipes(
            arguments.recipes,
            arguments.seeds,
            config_path,
            arguments.settings,
            arguments.splits,
            arguments.out,
            find_command("train").main,
            find_command("evaluate").main,
        )
    elif arguments.runs:
        rows = cp.cluster_runs(
            arguments.runs, arguments.splits, plan, lambda *clips: _encode_run(arguments.root, *clips)
        )
    else:
        rows = cp.cluster_arrays(arguments.arrays or (), arguments.ids, arguments.labels, plan)
        rows += _learn(arguments, plan, config_path)
    return CompareResult(rows, cp.write_comparison(rows, arguments.out))


def _learn(arguments: CompareArguments, plan: Any, config_path: Path) -> list[dict[str, Any]]:
    """Train on the arrays, where that is asked for."""
    if not arguments.learn:
        return []
    from selavi.commands.main import find_command
    from selavi.evaluation.learned_arrays import ArrayFiles, learn_arrays

    assert arguments.arrays and arguments.ids and arguments.labels  # or they were refused before
    files = ArrayFiles(arguments.arrays, arguments.ids, arguments.labels)
    train = find_command("train").main
    return learn_arrays(
        arguments.learn, files, plan, config_path, arguments.settings, arguments.out, train, _features_of_run
    )


def _features_of_run(run_dir: Path, ids: Any) -> Any:
    """Features of a run on arrays, a modality each."""
    from selavi.commands.features import features_of
    from selavi.config import load_run_config

    features, why_not = features_of(run_dir, load_run_config(run_dir).data.train_split, ids)
    if why_not:
        raise UsageError(f"{run_dir}: {why_not}")
    return features


def _check_learning(arguments: CompareArguments) -> None:
    """Refuse what cannot be learned of arrays."""
    from selavi.commands.checks import require
    from selavi.evaluation.learned_arrays import SOURCES, names_of

    require(arguments.arrays or not arguments.learn, "--learn belongs to --arrays; leave it out")
    for name in arguments.learn:
        require(name in SOURCES, f"--learn {name}: expected some of {', '.join(SOURCES)}")
    names_of(arguments.arrays or ())
    one_alone = len(arguments.arrays or ()) == 1 and any(name not in ("joint", "alone") for name in arguments.learn)
    require(not one_alone, "--learn concat, own and cross need two arrays; learn one with --learn alone")


def _check(arguments: CompareArguments) -> Path:
    """Refuse what cannot be done; returns the configuration that is trained with."""
    from selavi.commands.checks import output_folder, require, run_clips
    from selavi.config import load_config
    from selavi.evaluation.compare import RECIPES, check_recipes
    from selavi.scores.baselines import require_clusters

    config_path = find_recipe(arguments.config or Path("features" if arguments.arrays else "demo"))
    _check_learning(arguments)
    output_folder("--out", arguments.out)
    for seed in arguments.seeds:
        require(0 <= seed < 2**32, f"--seeds must be 0 to {2**32 - 1}, got {seed}")
    for name in ("seeds", "splits", "methods", "learn"):
        values = [str(value) for value in getattr(arguments, name)]
        require(len(set(values)) == len(values), f"--{name}: each of them once, got {' '.join(values)}")
    has_tables = arguments.ids or arguments.labels
    require(arguments.arrays or not has_tables, "--ids and --labels belong to --arrays; leave them out")
    if arguments.recipes:
        check_recipes(arguments.recipes, arguments.seeds)
        for name in arguments.recipes:
            load_config(config_path, [*arguments.settings, *RECIPES[name]])
    for folder in arguments.runs or ():
        for split in arguments.splits:
            config, rows = run_clips(folder, split, labelled=True)
            for method in arguments.methods:
                try:
                    require_clusters(len(rows), arguments.clusters or config.heads.num_clusters, method)
                except ValueError as error:
                    raise UsageError(f"{folder}, split {split}: {error}") from error
    return config_path


def _encode_run(root: str, folder: Path, split: str, num_views: int, scaling: str) -> tuple[Any, int]:
    """Features and labels of a run's clips (in `root`), by kind of features, and how many clusters it has."""
    from selavi.commands.opening import open_clips
    from selavi.evaluation.compare import kinds_of_run
    from selavi.inference.device import best_device
    from selavi.inference.encode import encode_clips
    from selavi.inference.load import load_model, untrained_model

    run, loaders = open_clips(folder, root)
    loader, table = loaders.evaluation_loader(split, num_views)
    device = best_device(run.config.trainer.accelerator)
    trained = encode_clips(*load_model(run, device), loader, len(table), num_views)
    untrained = encode_clips(*untrained_model(run, device), loader, len(table), num_views)
    return kinds_of_run(trained, untrained, table["label"].to_pylist(), scaling), run.config.heads.num_clusters


def show(result: CompareResult) -> None:
    """Print the table, and where the rest is."""
    from selavi.evaluation.compare import format_summary

    print(format_summary(result.rows))
    print(f"\nfull figures: {result.paths[0]} and .csv; plot: {result.paths[2]}", file=sys.stderr)


COMMAND = Command("compare", __doc__, CompareArguments, add_arguments, compare, show)
