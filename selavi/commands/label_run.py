"""What `selavi label` does; imported late, for its imports are slow."""

import time
from pathlib import Path

from datamodules.clips import judge_for
from datamodules.index.manifest import usable
from datamodules.index.moved import at_root
from selavi.commands.evaluate import EvaluateArguments, evaluate
from selavi.commands.export import ExportArguments, export
from selavi.commands.label import LabelArguments, LabelResult, again, run_folder
from selavi.commands.label_plan import Plan, check_same, make_plan, measure, read_plan, write_plan
from selavi.commands.train import TrainArguments, train
from selavi.config import load_run_config
from selavi.errors import Interrupted, UsageError
from selavi.evaluation.report import format_table
from selavi.filesystem import why_gone
from selavi.guarded.json_file import read_json
from selavi.meter import say
from selavi.planning import more_epochs
from selavi.runs.folder import RunFolder
from selavi.runs.manifest import media_root, read_manifest
from selavi.runs.record import read_status, read_verdict
from selavi.runs.resume import is_finished
from selavi.wording import about, command


def label_run(arguments: LabelArguments) -> LabelResult:
    """Do what is not done yet of looking, planning, training, measuring and exporting."""
    began = time.monotonic()
    run = run_folder(arguments)
    files = RunFolder(run)
    plan = _plan(arguments, run)
    worked = _train(arguments, run, plan)
    epochs = int(read_status(run)["epochs"])
    split = load_run_config(run).data.train_split
    if plan.exported != epochs:
        root = _new_root(arguments, run)
        evaluate(EvaluateArguments(runs=[run], split=split, root=root))
        export(ExportArguments(run, root=root))
        plan.exported = epochs
        write_plan(plan, run)
        worked = True
    scores = read_json(files.figures(split), "measure the run again")
    return LabelResult(
        folder=arguments.folder,
        run=run,
        page=files.gallery / "index.html",
        tables=(files.clusters, files.clusters_csv),
        verdict=read_verdict(run),
        scores=format_table({**scores, "verdict": ""}),
        by_hand=_by_hand(arguments, run, plan),
        other_splits=_other_splits(files, split),
        seconds=time.monotonic() - began if worked else 0.0,
    )


def _plan(arguments: LabelArguments, run: Path) -> Plan:
    """That of an earlier call, or a new one."""
    plan = read_plan(run)
    if plan is not None:
        check_same(plan, arguments, run)
        return plan
    if arguments.more is not None:
        raise UsageError(f"--more trains a finished run longer, and {run} has not begun; leave it out")
    return make_plan(arguments, run)


def _train(arguments: LabelArguments, run: Path, plan: Plan) -> bool:
    """Train what is not trained yet; returns whether there was something to do."""
    finished = RunFolder(run).settings.exists() and is_finished(load_run_config(run))
    if finished and arguments.more is None:
        return False
    if finished:
        epochs = _more(arguments, run, plan, arguments.more or arguments.minutes or plan.asked["minutes"])
        root = f"data.root={arguments.folder}"
        training = TrainArguments(overrides=[f"run_dir={run}", root], more=epochs)
    else:
        training = TrainArguments(Path(plan.recipe), _settings(arguments, run, plan, "resume=auto"))
    try:
        train(training)
    except Interrupted as error:
        raise Interrupted(f"stopped; the same command goes on: {again(arguments)}", error.exit_code) from error
    return True


def _settings(arguments: LabelArguments, run: Path, plan: Plan, *more: str) -> list[str]:
    return [f"data.root={arguments.folder}", *plan.settings, f"run_dir={run}", *more]


def _new_root(arguments: LabelArguments, run: Path) -> str:
    """The folder, where the media of a finished run have moved into it; "": they are where they were."""
    return arguments.folder if why_gone(media_root(read_manifest(RunFolder(run).manifest))) else ""


def _more(arguments: LabelArguments, run: Path, plan: Plan, minutes: float) -> int:
    """Epochs that fit into so many minutes."""
    config, cost = load_run_config(run), plan.cost
    if cost is None:
        manifest = read_manifest(RunFolder(run).manifest)
        config, manifest = at_root(config, manifest, _new_root(arguments, run))
        cost = measure(config, judge_for(config, manifest))
    epochs = more_epochs(minutes, cost, config)
    say(f"plan: {epochs} more epochs, {about(epochs * cost.epoch_s)}")
    return epochs


def _by_hand(arguments: LabelArguments, run: Path, plan: Plan) -> tuple[str, ...]:
    longer = [command("train", run, "--more", str(epochs)) for epochs in load_run_config(run).trainer.more_epochs]
    return (
        command("train", "--config", plan.recipe, *_settings(arguments, run, plan)),
        *longer,
        command("evaluate", run),
        command("export", run),
    )


def _other_splits(files: RunFolder, split: str) -> tuple[str, ...]:
    """Splits with usable clips that were not trained on."""
    names = usable(read_manifest(files.manifest))["split"].to_pylist()
    return tuple(sorted(set(filter(None, names)) - {split}))
