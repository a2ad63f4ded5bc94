"""Measure how well clusters hold when picture or sound is degraded: NMI against severity, for several runs."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selavi.cli import Command, Parser
from selavi.wording import command

if TYPE_CHECKING:
    from selavi.config import Config


@dataclass(frozen=True)
class DegradeArguments:
    """Which runs, and what their clips go through."""

    runs: Sequence[str]
    """[NAME=]RUN; runs of one name are averaged."""
    kmeans: Sequence[str] = ()
    corruptions: Sequence[str] = ()
    split: str = "test"
    views: int = 3
    seed: int = 0
    out: Path = Path("runs/degradation")
    root: str = ""


@dataclass(frozen=True)
class DegradeResult:
    """A row for each line, corruption and severity, and the files that hold them."""

    rows: list[dict[str, Any]]
    path: Path
    plots: Sequence[Path]


def add_arguments(parser: Parser) -> None:
    """Describe the command line."""
    words = ("SeLaVi=runs/both", "video=runs/video", "--kmeans", "video+audio")
    parser.add_example(command("degrade", *words))
    parser.add_argument("runs", nargs="+", metavar="[NAME=]RUN", help="run folders; runs of one NAME are averaged")
    about = "also cluster the features of these modalities with K-means, such as video, audio or video+audio"
    parser.add_argument("--kmeans", nargs="+", metavar="MODALITIES", help=about)
    about = "corruptions to measure (default: all; a wrong name lists them)"
    parser.add_argument("--corruptions", nargs="+", metavar="NAME", help=about)
    parser.add_argument("--split", help="clips to measure on (default: test)")
    about = "number of evenly spaced views of each clip; their log-probabilities are averaged (default: 3)"
    parser.add_argument("--views", type=int, metavar="N", help=about)
    parser.add_argument("--seed", type=int, help="seed of noise and holes (default: 0)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder for the results (default: runs/degradation)")
    parser.take_root()


def degrade(arguments: DegradeArguments) -> DegradeResult:
    """Measure what is not in the table yet; runs that read the same clips in the same way together."""
    _check(arguments)  # before torch is imported
    from selavi.commands.opening import open_run
    from selavi.evaluation.degradation import DegradationTable, check_names, same_clips
    from selavi.evaluation.degradation_charts import write_plots

    check_names(arguments.corruptions, arguments.views)
    table = DegradationTable(arguments.out, arguments.split, arguments.views, arguments.seed)
    groups: dict[Any, list[Any]] = {}
    for word in arguments.runs:
        name, _, folder = word.rpartition("=")
        run = open_run(Path(folder), arguments.root)
        groups.setdefault(same_clips(run.config), []).append((name or run.folder.name, run))
    for group in groups.values():
        _measure_group(group, table, arguments)
    return DegradeResult(table.rows, table.path, write_plots(table.rows, arguments.out, arguments.split))


def _check(arguments: DegradeArguments) -> None:
    """Refuse what cannot be done; the corruptions are checked where their names are kept."""
    from selavi.commands.checks import at_least, output_folder, require, run_clips

    at_least(arguments, views=1, seed=0)
    output_folder("--out", arguments.out)
    folders = [Path(word.rpartition("=")[2]) for word in arguments.runs]
    configs = [run_clips(folder, arguments.split, labelled=True)[0] for folder in folders]
    kinds = list(dict.fromkeys(kind for config in configs for kind in _kinds_of_features(config)))
    for kind in arguments.kmeans:
        about = f"--kmeans {kind}: none of the runs was trained on {' and '.join(kind.split('+'))}"
        require(kind in kinds, f"{about}; they have {', '.join(kinds)}")


def _kinds_of_features(config: "Config") -> list[str]:
    """Each modality of a run, and all of them side by side."""
    together = ["+".join(config.kinds)] if len(config.kinds) > 1 else []
    return [*config.kinds, *together]


def _measure_group(group: list[tuple[str, Any]], table: Any, arguments: DegradeArguments) -> None:
    """Decode each clip once for all runs of a group."""
    from datamodules.loading.views import ClipLoaders
    from datamodules.stores.opening import open_media
    from selavi.evaluation.corruptions import CLEAN, CORRUPTIONS
    from selavi.evaluation.degradation import kmeans_lines, make_judge
    from selavi.inference.device import best_device
    from selavi.inference.encode import encode_clips
    from selavi.inference.load import load_model
    from selavi.meter import follow

    first = max((run for _, run in group), key=lambda run: len(run.config.kinds))
    modalities = sorted({name for _, run in group for name in run.config.kinds})
    config = replace(first.config, modalities=modalities)
    loaders = ClipLoaders(config, first.manifest, open_media(config, first.manifest))
    device = best_device(config.trainer.accelerator)
    judges = []
    for name, run in group:
        model, augment = load_model(run, device)
        lines = []
        if arguments.kmeans:
            loader, rows = loaders.evaluation_loader(config.data.train_split, arguments.views)
            clips = encode_clips(model, augment, loader, len(rows), arguments.views)
            lines = kmeans_lines(name, clips, arguments.kmeans, run.config.heads.num_clusters, run.config.seed)
        judges.append(make_judge(name, run.folder, model, augment, run.config, run.checkpoint["label_bank"], lines))
    for name in (CLEAN, *(arguments.corruptions or CORRUPTIONS)):
        if severities := table.missing(judges, name):
            loader, rows = loaders.evaluation_loader(arguments.split, arguments.views)
            table.measure(follow(loader, name, len(loader), "batches"), name, severities, judges, rows, config)


def show(result: DegradeResult) -> None:
    """Print the table, and where the rest is."""
    from selavi.evaluation.degradation_charts import format_degradation

    print(format_degradation(result.rows))
    print(f"\nfull figures: {result.path} and .csv; plots: .svg beside them", file=sys.stderr)


COMMAND = Command("degrade", __doc__, DegradeArguments, add_arguments, degrade, show)
