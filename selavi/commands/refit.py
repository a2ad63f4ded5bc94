"""Fit new heads to the encoders of a finished run, for other labels or another number of clusters, without training.

The result is a run of its own, which every command reads; the run that it comes from stays as it is.
"""

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from selavi.cli import Command, Parser
from selavi.wording import command, duration

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa

    from datamodules.loading.views import ClipLoaders
    from selavi.augment import Augment
    from selavi.batch import ClipBatch
    from selavi.config import Config
    from selavi.inference.bad_clips import BadClips
    from selavi.model import SelaviModel
    from selavi.runs.record import Run
    from selavi.training.refit import Refit


@dataclass(frozen=True)
class RefitArguments:
    """Whose encoders, and what to fit to them."""

    run: Path
    clusters: int | None = None
    """K; None: that of the run."""
    out: Path | None = None
    """The new run's folder; None: beside the run, as new_folder names it."""
    root: str = ""


@dataclass(frozen=True)
class RefitResult:
    """The new run."""

    run_dir: Path
    source: Path
    num_clips: int
    seconds: float
    verdict: str
    has_names: bool
    """Whether the run that it comes from has names for its clusters."""


def add_arguments(parser: Parser) -> None:
    """Describe the command line."""
    parser.add_example(command("refit", "runs/mine", "--clusters", "20"))
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, such as runs/demo")
    parser.add_argument("-k", "--clusters", type=int, metavar="K", help="number of clusters (default: that of the run)")
    about = "folder of the new run (default: RUN-refit, or RUN-kK for another number of clusters)"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=about)
    parser.take_root()


def new_folder(run: Path, clusters: int | None) -> Path:
    """Where the new run goes unless somebody says so."""
    return run.with_name(f"{run.name}-refit" if clusters is None else f"{run.name}-k{clusters}")


def refit(arguments: RefitArguments) -> RefitResult:
    """Encode views of the training clips, fit heads to them, and write the new run at the end."""
    _check(arguments)
    from datamodules.index.manifest import select_split, usable
    from selavi.commands.new_run import write_new_run
    from selavi.commands.opening import open_clips
    from selavi.inference.bad_clips import BadClips
    from selavi.inference.device import best_device
    from selavi.inference.load import load_model
    from selavi.runs.folder import RunFolder

    began = time.monotonic()
    run, loaders = open_clips(arguments.run, arguments.root)
    out = arguments.out or new_folder(arguments.run, arguments.clusters)
    config = _new_config(run, arguments.clusters, out)
    model, augment = load_model(run, best_device(config.trainer.accelerator))
    rows = usable(select_split(loaders.manifest, config.data.train_split))
    bad = BadClips(rows["id"].to_pylist(), config.data.max_bad_fraction)
    fitted = _fit(config, model, augment, loaders, rows, bad)
    verdict = write_new_run(
        run,
        config,
        fitted,
        bad,
        began,
        _sentences(run, config, fitted),
        has_moved=bool(arguments.root),
    )
    has_names = RunFolder(run.folder).names.exists()
    return RefitResult(out, run.folder, len(bad.ids), time.monotonic() - began, verdict, has_names)


def _check(arguments: RefitArguments) -> None:
    """Refuse what cannot be done; imports no torch."""
    from selavi.commands.checks import at_least, new_run_folder, require, run_clips
    from selavi.runs.launch import require_one_process

    require_one_process("refitting")

    at_least(arguments, clusters=2)
    _, rows = run_clips(arguments.run, None)
    most = len(rows)
    about = f"--clusters {arguments.clusters}: the run has {most} training clips, so at most as many clusters"
    require(arguments.clusters is None or arguments.clusters <= most, about)
    new_run_folder(arguments.out or new_folder(arguments.run, arguments.clusters), "remove it")


def _new_config(run: "Run", clusters: int | None, out: Path) -> "Config":
    """The run's settings with what differs for the new heads; its media are where they are now."""
    from selavi.config import load_config
    from selavi.runs.folder import RunFolder

    overrides = ["labelling.votes=equal", *([] if clusters is None else [f"heads.num_clusters={clusters}"])]
    config = load_config(RunFolder(run.folder).settings, overrides)
    config.run_dir, config.data = str(out), run.config.data
    return config


def _fit(
    config: "Config",
    model: "SelaviModel",
    augment: "Augment",
    loaders: "ClipLoaders",
    rows: "pa.Table",
    bad: "BadClips",
) -> "Refit":
    """Read the training clips once for each view, and once more for the last labelling.

    Raises:
        DataError: too many of them cannot be decoded.
    """
    from selavi.meter import follow
    from selavi.training.refit import affordable_views, encode_plainly, encode_views, refit

    loader, sampler = loaders.labelling_loader(rows)
    num_views = affordable_views(model, len(rows), config.labelling.memory_gb)

    def follow_clips(batches: "Iterable[ClipBatch]", doing: str) -> "Iterator[ClipBatch]":
        return follow(bad.watch(batches), doing, len(rows), "clips", lambda batch: len(batch.index))

    def read(number: int) -> "Iterator[ClipBatch]":
        sampler.set_epoch(number)
        return follow_clips(loader, f"view {-number} of {num_views}")

    views = encode_views(model, augment, read, len(rows), num_views)
    plain = encode_plainly(model, augment, follow_clips(loaders.view_loader(rows), "last labelling"))
    return refit(config, model, views, bad.ids, plain)


def _sentences(run: "Run", config: "Config", fitted: "Refit") -> tuple[str, ...]:
    """What is known of the new labels, without any human ones."""
    from selavi.scores.head_choice import choose_head

    settings = config.heads
    heads = f"{settings.num_heads} new heads of {settings.num_clusters} clusters on the encoders of {run.folder}"
    agreement, before = (
        choose_head(bank.numpy()).scores["agreement"].mean()
        for bank in (fitted.bank.labels, run.checkpoint["label_bank"]["labels"])
    )
    sentences = [f"Refitted: {heads}."]
    if settings.num_heads > 1:
        sentences.append(
            f"They agree with each other to {agreement:.2f} (mean NMI), those of that run to {before:.2f}."
        )
    return tuple(sentences)


def show(result: RefitResult) -> None:
    """Say where the new run is, what is known of it and what to do next."""
    from selavi.runs.record import next_steps

    print(
        f"done in {duration(result.seconds)}; labels of {result.num_clips} clips are in {result.run_dir}/labels, and "
        f"{result.source} is as it was.\n{result.verdict}",
        file=sys.stderr,
    )
    if result.has_names:
        print(f"The names of {result.source}/names.csv are those of its own clusters and stay there.", file=sys.stderr)
    print(f"{next_steps(str(result.run_dir))}", file=sys.stderr)
    print(f"      compare   {command('evaluate', result.source, result.run_dir)}", file=sys.stderr)


COMMAND = Command("refit", __doc__, RefitArguments, add_arguments, refit, show)
