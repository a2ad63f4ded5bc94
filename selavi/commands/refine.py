"""Learn what was named: heads on the encoders of a run that know the names of its names.csv.

Each name becomes a cluster of a new run, and each cluster without a name stays one.  Clips that were moved are answers
and stay where they were put; all others are labelled again.  The encoders stay as they are, or a copy of them learns
the names, too (--encoders).  The run that it comes from stays as it is, and the new one can be named and refined
in turn.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from selavi.cli import Command, Parser
from selavi.wording import command, duration

if TYPE_CHECKING:
    import pyarrow as pa

    from selavi.batch import ClipBatch
    from selavi.config import Config
    from selavi.inference.bad_clips import BadClips
    from selavi.model import SelaviModel
    from selavi.refining.places import Places
    from selavi.refining.refine import Refined
    from selavi.runs.record import Run
    from selavi.training.first.views import CachedViews

NUM_QUESTIONS = 20


@dataclass(frozen=True)
class RefineArguments:
    """What was named, and of which run."""

    run: Path
    names: Path | None = None
    """None: RUN/names.csv."""
    questions: int = NUM_QUESTIONS
    """Most clips to ask about next."""
    encoders: int = 0
    """Epochs for which the encoders learn, too; 0: they stay as they are."""
    out: Path | None = None
    """The new run's folder; None: beside the run, as new_folder names it."""
    root: str = ""


@dataclass(frozen=True)
class RefineResult:
    """The new run."""

    run_dir: Path
    source: Path
    encoders: Path
    """The run of its encoders: the source, unless they learned, too."""
    num_clips: int
    num_changed: int
    """Clips that are in another place than their cluster was."""
    num_unsure: int
    num_questions: int
    seconds: float
    verdict: str


def add_arguments(parser: Parser) -> None:
    """Describe the command line."""
    parser.add_example(command("refine", "runs/mine", "--names", "names.csv"))
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, such as runs/demo")
    about = "names.csv that the run's page gave (default: RUN/names.csv)"
    parser.add_argument("--names", type=Path, metavar="FILE", help=about)
    about = f"most clips to ask about next, in questions.csv (default: {NUM_QUESTIONS})"
    parser.add_argument("--questions", type=int, default=NUM_QUESTIONS, metavar="N", help=about)
    about = "let the encoders learn the names too, for this many epochs (default: they stay as they are)"
    parser.add_argument("--encoders", type=int, default=0, metavar="EPOCHS", help=about)
    about = "folder of the new run (default: RUN-round1, or of a round N its next one)"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=about)
    parser.take_root()


def new_folder(run: Path) -> Path:
    """Where the new run goes unless somebody says so: mine -> mine-round1 -> mine-round2."""
    name, mark, number = run.name.rpartition("-round")
    if mark and number.isdecimal():
        return run.with_name(f"{name}-round{int(number) + 1}")
    return run.with_name(f"{run.name}-round1")


def refine(arguments: RefineArguments) -> RefineResult | None:
    """Encode views of the training clips, learn the names, and write the new run at the end.

    Where the encoders learn, too, new heads learn the names once more, from views by the new encoders.

    Of several processes of torchrun each encodes some views, all train encoders, and the first one does all else; the
    others return None.
    """
    _check(arguments)
    from datamodules.index.manifest import select_split, usable
    from selavi.commands.new_run import write_new_run
    from selavi.commands.opening import open_run
    from selavi.inference.bad_clips import BadClips
    from selavi.inference.device import best_device
    from selavi.inference.load import load_model
    from selavi.labelling.bank import ids_of_bank
    from selavi.refining.refine import refine as learn_places
    from selavi.refining.tables import write_answers, write_questions, write_refined
    from selavi.results.naming import write_names
    from selavi.runs.folder import RunFolder

    began = time.monotonic()
    run = open_run(arguments.run, arguments.root)
    out = arguments.out or new_folder(arguments.run)
    rows = usable(select_split(run.manifest, run.config.data.train_split))
    ids = ids_of_bank(run.checkpoint["label_bank"])
    places = _places(arguments, run)
    config = _new_config(run, len(places.names), out)
    model, _ = load_model(run, best_device(config.trainer.accelerator))
    bad = BadClips(ids, config.data.max_bad_fraction)

    def learn(origin: "Run", model: "SelaviModel") -> "Refined | None":
        views = _views(origin, model, rows, bad)
        return None if views is None else learn_places(config, model, views, ids, places, arguments.questions)

    origin, refined = run, learn(run, model)
    if arguments.encoders:
        from selavi.commands.refine_encoders import encoders_folder, train_encoders

        trained = train_encoders(run, refined, places, ids, encoders_folder(out), arguments.encoders)
        model, _ = load_model(trained, best_device(config.trainer.accelerator))
        origin = replace(run, folder=trained.folder, checkpoint=trained.checkpoint)
        refined = learn(origin, model)
    if refined is None:
        return None
    labels = refined.bank.labels[:, 0]

    def write_tables(files: RunFolder) -> None:
        write_names(places.as_names(ids, labels), files.names)
        write_answers(files.answers, places, ids, RunFolder(run.folder).answers)
        write_refined(files.refined, places, refined, ids)
        write_questions(files.questions, places, refined, ids)

    verdict = write_new_run(
        origin,
        refined.config,
        refined,
        bad,
        began,
        _sentences(run, origin, places, refined),
        has_moved=bool(arguments.root),
        write_more=write_tables,
    )
    num_changed = int((labels != places.start).sum())
    num_unsure = int((~refined.is_sure).sum())
    seconds = time.monotonic() - began
    return RefineResult(
        out, run.folder, origin.folder, len(ids), num_changed, num_unsure, len(refined.questions), seconds, verdict
    )


def _check(arguments: RefineArguments) -> None:
    """Refuse what cannot be done; imports no torch."""
    from selavi.commands.checks import at_least, new_run_folder, require, run_clips
    from selavi.runs.folder import RunFolder

    at_least(arguments, questions=0, encoders=0)
    config, _ = run_clips(arguments.run, None)
    source = config.labelling.source
    about = f"{arguments.run} has labelling.source={source}: each of its modalities has clusters of its own"
    require(source not in ("own", "cross", "concat"), f"{about}, and names of one are none of the others'")
    names = arguments.names or RunFolder(arguments.run).names
    about = f"found no {names}; name clusters on the run's page ({command('export', arguments.run)}) and save names.csv"
    require(names.exists(), about)
    new_run_folder(arguments.out or new_folder(arguments.run), "remove it to undo that round")


def _places(arguments: RefineArguments, run: "Run") -> "Places":
    """What the names say of the run's training clips.

    Raises:
        UsageError: the names are not of this run, or there is nothing to learn in them.
    """
    from selavi.labelling.bank import ids_of_bank
    from selavi.meter import say
    from selavi.refining.places import make_places
    from selavi.refining.tables import read_answers
    from selavi.results.naming import named_head, read_names
    from selavi.runs.folder import RunFolder
    from selavi.runs.launch import is_first

    files, bank = RunFolder(run.folder), run.checkpoint["label_bank"]
    names = read_names(arguments.names or files.names)
    head = named_head(names, run.config.heads.num_heads)
    places = make_places(names.of(head), ids_of_bank(bank), bank["labels"][:, head].long(), read_answers(files.answers))
    if not is_first():
        return places
    num_named = sum(map(bool, places.names))
    words = f"head {head}: {num_named} names, {len(places.names) - num_named} clusters without one"
    say(f"{words}, {int(places.is_answered.sum())} clips moved or confirmed by hand")
    num_left_out = sum(row["head"] != head for row in names.rows)
    if num_left_out:
        say(f"{num_left_out} decisions about other heads are left out: one head is learned at a time")
    if places.num_unknown:
        say(f"{places.num_unknown} decisions are about clips that this run was not trained on, and are left out")
    return places


def _new_config(run: "Run", num_places: int, out: Path) -> "Config":
    """The run's settings with what differs for the new heads; its media are where they are now."""
    from selavi.config import load_config
    from selavi.runs.folder import RunFolder

    overrides = ["labelling.votes=raw", "labelling.source=joint", "labelling.method=transport"]
    overrides += ["labelling.marginal=uniform", f"heads.num_clusters={num_places}"]
    config = load_config(RunFolder(run.folder).settings, overrides)
    config.run_dir, config.data = str(out), run.config.data
    return config


def _views(run: "Run", model: "SelaviModel", rows: "pa.Table", bad: "BadClips") -> "CachedViews | None":
    """Views of the training clips, kept beside the checkpoint of the run that has the encoders.

    Several processes each encode some; only the first one reads them all, and the others get None.
    """
    from datamodules.loading.views import ClipLoaders
    from datamodules.stores.opening import open_media
    from selavi.augment import Augment
    from selavi.distributed import meet
    from selavi.inference.bad_clips import BadClips
    from selavi.meter import follow, say
    from selavi.refining.kept_views import digest_of_views, keep_views, read_views
    from selavi.runs.checkpoint import REFITTED
    from selavi.runs.folder import RunFolder
    from selavi.runs.launch import share_of
    from selavi.training.refit import affordable_views, encode_views

    device = next(model.parameters()).device
    augment = Augment(run.config).to(device)
    num_views = affordable_views(model, len(rows), run.config.labelling.memory_gb)
    digest = digest_of_views(model, bad.ids, run.config)
    origin = Path(run.checkpoint.get(REFITTED, str(run.folder)))
    folder = RunFolder(origin if origin.exists() else run.folder).views
    loaders = list[ClipLoaders]()

    def encode(view: int) -> "tuple[CachedViews, dict[int, str]]":
        if not loaders:
            if number == 0:
                say(f"encoding {num_views} views of {len(rows)} clips; they are kept in {folder}")
            loaders.append(ClipLoaders(run.config, run.manifest, open_media(run.config, run.manifest)))
        loader, sampler = loaders[0].labelling_loader(rows)

        def read(_: int) -> "Iterator[ClipBatch]":
            sampler.set_epoch(-1 - view)
            doing, batches = f"view {view + 1} of {num_views}", watched.watch(loader)
            return follow(batches, doing, len(rows), "clips", lambda batch: len(batch.index))

        watched = BadClips(bad.ids, bad.max_fraction)
        return encode_views(model, augment, read, len(rows), 1), watched.reasons

    number, count = share_of()
    keep_views(folder, digest, range(number, num_views, count), encode)
    meet()
    if number > 0:
        return None
    views, reasons = read_views(folder, digest, num_views)
    bad.add(reasons)
    return views


def _sentences(run: "Run", origin: "Run", places: "Places", refined: "Refined") -> tuple[str, ...]:
    """What is known of the new labels."""
    from selavi.refining.confidence import FEWEST_ANSWERS, FEWEST_CONFIRMED

    named = ", ".join(name for name in places.names if name)
    sentences = [f"Refined from {run.folder}: {named}."]
    if origin is not run:
        sentences.append(f"Its encoders learned the names too: {origin.folder}.")
    calibration, num_answers = refined.calibration, int(places.is_answered.sum())
    if calibration.num_answers:
        sentences.append(
            f"Of {calibration.num_answers} clips that were moved or confirmed by hand, heads that did not learn them "
            f"find {calibration.accuracy:.0%}; confidence is fitted to these, which are harder than most."
        )
    else:
        sentences.append(
            f"Confidence is not calibrated: that takes {FEWEST_ANSWERS} clips that were moved or confirmed by hand, "
            f"{FEWEST_CONFIRMED} of them confirmed, and there are {num_answers} and {int(places.is_confirmed.sum())}."
        )
    return tuple(sentences)


def show(result: RefineResult | None) -> None:
    """Say where the new run is, what is known of it and what to do next."""
    if result is None:
        return
    from selavi.runs.record import next_steps

    print(
        f"done in {duration(result.seconds)}; {result.run_dir} has the names, and {result.source} is as it was.\n"
        f"{result.verdict}\n"
        f"{result.num_changed} of {result.num_clips} clips are in another place than their cluster was, "
        f"{result.num_unsure} are unsure: {result.run_dir}/refined.csv",
        file=sys.stderr,
    )
    print(f"{next_steps(str(result.run_dir))}", file=sys.stderr)
    table = ("--table", f"{result.run_dir}/refined.csv", "--columns", "before", "asked")
    print(f"      changes   {command('export', result.run_dir, *table)}", file=sys.stderr)
    if result.num_questions:
        print(
            f"      answer    {result.num_questions} clips that would help most are in {result.run_dir}/questions.csv; "
            f"put them right on its page, and {command('refine', result.run_dir, '--names', 'names.csv')}",
            file=sys.stderr,
        )
    both = "" if result.encoders == result.source else f" and {result.encoders}"
    print(f"      undo      remove {result.run_dir}{both}", file=sys.stderr)


COMMAND = Command("refine", __doc__, RefineArguments, add_arguments, refine, show)
