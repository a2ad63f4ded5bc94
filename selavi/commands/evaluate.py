"""Measure the clusters of runs, for every head and for the one chosen without labels, or the clusters of a file."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selavi.cli import Command, Parser
from selavi.wording import command

if TYPE_CHECKING:
    from selavi.config import Config


@dataclass(frozen=True)
class EvaluateArguments:
    """Whose clusters, and what else to measure of them."""

    runs: Sequence[Path] = ()
    clusters: Path | None = None
    labels: Path | None = None
    split: str = "train"
    views: int = 3
    yardsticks: bool = False
    choose: str = ""
    merge: Sequence[int] = ()
    suggest_k: bool = False
    report: bool = False
    root: str = ""


@dataclass(frozen=True)
class EvaluateResult:
    """Scores by run folder, as RUN/eval/metrics_SPLIT.json holds them; or those of a file of clusters."""

    split: str
    runs: dict[Path, dict[str, Any]]
    reports: Sequence[Path] = ()
    of_file: dict[str, Any] | None = None


def add_arguments(parser: Parser) -> None:
    """Describe the command line."""
    of_run = command("evaluate", "runs/demo", "--split", "test", "--report")
    of_file = command("evaluate", "--clusters", "theirs.csv", "--labels", "truth.csv")
    parser.add_example(of_run, of_file)
    parser.add_argument("runs", type=Path, nargs="*", metavar="RUN", help="run folders, such as runs/demo")
    about = "instead of runs: CSV or Parquet file of anyone's clusters, with columns id and cluster"
    parser.add_argument("--clusters", type=Path, metavar="FILE", help=about)
    about = "CSV or Parquet file of labels for the clips of --clusters, with columns id and label"
    parser.add_argument("--labels", type=Path, metavar="FILE", help=about)
    parser.add_argument("--split", help="clips to measure on (default: train)")
    about = "number of evenly spaced views of each clip; their log-probabilities are averaged (default: 3)"
    parser.add_argument("--views", type=int, metavar="N", help=about)
    about = "also cluster by mean colour, loudness, file size and duration alone: the score of a shortcut"
    parser.add_argument("--yardsticks", action="store_true", help=about)
    about = (
        "how a head is chosen without labels: by how well a linear classifier on the features finds its clusters "
        "(probe, the default), by its agreement with the other heads (the default where each modality has labels of "
        "its own, and of runs of earlier versions, which were not probed), or by what the probabilities of the "
        "modalities share"
    )
    parser.add_argument("--choose", choices=("probe", "agreement", "modalities"), help=about)
    about = "also merge the clusters to K, guided by the other heads, and show how well the heads then agree"
    parser.add_argument("--merge", type=int, nargs="+", metavar="K", help=about)
    about = (
        "also suggest a number of clusters: the largest K, up to three times the run's, at which halves of the clips "
    )
    about += "give clusters as similar as at any K"
    parser.add_argument("--suggest-k", action="store_true", help=about)
    about = "also write a page with figures: RUN/eval/report_SPLIT.html"
    parser.add_argument("--report", action="store_true", help=about)
    parser.take_root()


def evaluate(arguments: EvaluateArguments) -> EvaluateResult:
    """Score a file of clusters, or predict and score every clip of a split for each run."""
    _check(arguments)
    if arguments.clusters and arguments.labels:
        from selavi.evaluation.external import evaluate_files

        scores = evaluate_files(arguments.clusters, arguments.labels)
        return EvaluateResult(arguments.split, {}, of_file=scores)
    from selavi.commands.evaluate_run import evaluate_run

    runs: dict[Path, dict[str, Any]] = {}
    reports: list[Path] = []
    for run in arguments.runs:
        runs[run], report = evaluate_run(run, arguments)
        reports += [report] if report else []
    return EvaluateResult(arguments.split, runs, reports)


def _check(arguments: EvaluateArguments) -> None:
    """Refuse what cannot be done; imports no torch."""
    import numpy as np

    from selavi.commands.checks import at_least, output_folder, require, run_clips, run_folder_to_write
    from selavi.results.labels import agreement_of_modalities
    from selavi.runs.folder import RunFolder

    at_least(arguments, views=1)
    one_kind = bool(arguments.runs) == (not arguments.clusters) == (not arguments.labels)
    require(one_kind, "expected run folders, or --clusters FILE and --labels FILE together")
    if arguments.clusters:
        _check_of_file(arguments)
    for run in arguments.runs:
        config, _ = run_clips(run, arguments.split)
        run_folder_to_write(run)
        output_folder("the run folder", RunFolder(run).evaluation)
        _check_merge(config, arguments.merge)
        if arguments.choose == "modalities":
            shared = agreement_of_modalities(run, config.data.train_split)
            both = shared is not None and np.isfinite(shared).any()
            require(both, f"--choose modalities: no label of {run} comes from two modalities; choose by agreement")


def _check_of_file(arguments: EvaluateArguments) -> None:
    from selavi.commands.checks import require

    of_runs = {"merge", "suggest_k", "yardsticks", "report", "choose", "split", "views"}
    for entry in fields(arguments):
        as_default = getattr(arguments, entry.name) == entry.default
        about = f"--{entry.name.replace('_', '-')} is for run folders; the clusters of a file are scored as they are"
        require(entry.name not in of_runs or as_default, about)


def _check_merge(config: "Config", merge: Sequence[int]) -> None:
    from selavi.commands.checks import require

    most = config.heads.num_clusters
    for number in merge:
        fits = 1 <= number <= most
        require(fits, f"--merge {number}: the run has {most} clusters, which can be merged to 1 to {most}")
    about = "--merge: clusters are merged by what other heads make of them, and the run has one head"
    require(not merge or config.num_label_heads > 1, about)


def show(result: EvaluateResult) -> None:
    """Print the scores, where they are kept, and what to do next."""
    if result.of_file is not None:
        from selavi.evaluation.external import format_scores

        return print(format_scores(result.of_file))
    from selavi.evaluation.report import format_comparison, format_table

    for report in result.reports:
        print(f"report: {report}", file=sys.stderr)
    scores = {str(run): scores for run, scores in result.runs.items()}
    print(format_table(next(iter(scores.values()))) if len(scores) == 1 else format_comparison(scores))
    for run, of_run in result.runs.items():
        if "suggested_k" in of_run:
            _show_suggestion(run, of_run["suggested_k"])
    where = " ".join(f"{run}/eval/metrics_{result.split}.json" for run in result.runs)
    print(f"\nfull figures: {where}", file=sys.stderr)
    split = ("--split", result.split) if result.split != "train" else ()
    print(f"Next: browse   {command('export', next(iter(result.runs)), *split)}", file=sys.stderr)


def _show_suggestion(run: Path, figures: dict[str, Any]) -> None:
    from selavi.evaluation.num_clusters import describe_suggestion
    from selavi.runs.folder import RunFolder

    print("\n".join([f"\nnumber of clusters, {run}", *describe_suggestion(figures)]))
    number = figures["num_clusters"]
    if number != figures["trained_with"]:
        words = ("--config", RunFolder(run).settings, f"heads.num_clusters={number}", f"run_dir={run}-k{number}")
        print(f"Next: train with it   {command('train', *words)}", file=sys.stderr)
        refit = command("refit", run, "--clusters", str(number))
        print(f"      or, in minutes, on these encoders   {refit}", file=sys.stderr)


COMMAND = Command("evaluate", __doc__, EvaluateArguments, add_arguments, evaluate, show)
