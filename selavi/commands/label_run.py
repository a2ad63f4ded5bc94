"""What `selavi label` does; imported late, for its imports are slow."""

import json
import os
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from datamodules.clips import check_bad_fraction, judge_for
from datamodules.doctor.installation import PROBES, check_codecs, run_probe
from datamodules.doctor.throughput import SampledFiles, measure_data
from datamodules.index.manifest import describe_bad, probed, read_manifest, select_split, usable
from datamodules.stores.cache import estimate_gb
from datamodules.stores.opening import open_prepared
from selavi.atomic import write_text
from selavi.commands.evaluate import EvaluateArguments, evaluate
from selavi.commands.export import ExportArguments, export
from selavi.commands.label import MINUTES, LabelArguments, LabelResult, again, run_folder
from selavi.commands.recipes import find_recipe
from selavi.commands.scan import ScanArguments, scan
from selavi.commands.train import TrainArguments, train
from selavi.config import Config, load_config, load_run_config
from selavi.errors import Interrupted, UsageError
from selavi.evaluation.report import format_table
from selavi.meter import say
from selavi.modalities import MODALITIES, request_of
from selavi.planning import (
    SHORTEST_S,
    Cost,
    FolderFacts,
    MachineFacts,
    choose_clip_s,
    choose_recipe,
    describe_length,
    more_epochs,
    plan_length,
    recipe_name,
)
from selavi.runs.folder import RunFolder
from selavi.runs.record import read_status, read_verdict
from selavi.runs.resume import is_finished
from selavi.training.speed import measure_model
from selavi.wording import about, command

PLAN = "label.json"
_SCANNED = {"manifest.parquet", "triage.md", PLAN}
_TRIAL_S = 8.0
"""To measure how fast the model is; about half as long for the data."""
_LABELLING_S = 0.1
"""What a labelling takes beside the reading and encoding of its clips."""


@dataclass
class Plan:
    """What was decided at the first call; kept as RUN/label.json."""

    folder: str
    asked: dict[str, Any]
    """Clusters, minutes and settings that the first call named."""
    recipe: str
    settings: list[str]
    """On top of the recipe."""
    epoch_s: float = 0.0
    """Measured; 0: not."""
    labelling_s: float = 0.0
    exported: int = 0
    """Epochs of the training that tables and page were made of."""


def label_run(arguments: LabelArguments) -> LabelResult:
    """Do what is not done yet of looking, planning, training, measuring and exporting."""
    began = time.monotonic()
    run = run_folder(arguments)
    files = RunFolder(run)
    plan = _read_plan(arguments, run) or _make_plan(arguments, run)
    worked = _train(arguments, run, plan)
    epochs = int(read_status(run)["epochs"])
    split = load_run_config(run).data.train_split
    if plan.exported != epochs:
        evaluate(EvaluateArguments(runs=[run], split=split))
        export(ExportArguments(run))
        plan.exported = epochs
        _write_plan(plan, run)
        worked = True
    scores = json.loads(files.figures(split).read_text(encoding="utf-8"))
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


# ---- the plan ----


def _read_plan(arguments: LabelArguments, run: Path) -> Plan | None:
    """The plan of an earlier call; None for the first.

    Raises:
        UsageError: the run folder holds something else, or this call asks for something else.
    """
    path, folder = run / PLAN, os.path.abspath(arguments.folder)
    if not path.exists():
        others = sorted({entry.name for entry in run.iterdir()} - _SCANNED) if run.exists() else []
        if others:
            raise UsageError(
                f"{run} holds something that `label` did not write ({others[0]}); name another folder: --out"
            )
        return None
    try:
        plan = Plan(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}; name another folder: --out") from error
    if plan.folder != folder:
        raise UsageError(f"{run} holds the labels of {plan.folder}; name another folder for those of {folder}: --out")
    for option, name in (("-k", "num_clusters"), ("settings", "overrides")):
        asked, before = getattr(arguments, name), plan.asked[name]
        if asked and asked != before:
            raise UsageError(f"{run} was begun with {option} {before or 'not given'}, now {asked}; name another --out")
    if arguments.minutes not in (None, plan.asked["minutes"]):
        say(f"the plan for {plan.asked['minutes']:g} min, made when {run} was begun, is kept; --more trains longer")
    return plan


def _write_plan(plan: Plan, run: Path) -> None:
    write_text(run / PLAN, json.dumps(asdict(plan), indent=2) + "\n")


def _make_plan(arguments: LabelArguments, run: Path) -> Plan:
    """Look at the clips and the machine, choose settings and say them."""
    if arguments.more is not None:
        raise UsageError(f"--more trains a finished run longer, and {run} has not begun; leave it out")
    for check in check_codecs(run_probe(PROBES["av"])):
        if check.mark != "ok":
            say(f"{check.mark}: {check.name}: {check.finding}. {check.advice}")
    root = f"data.root={arguments.folder}"
    usual = load_config(find_recipe(Path("small")), [root, *arguments.overrides])
    manifest = _look(arguments, usual, run)
    facts, machine = _facts(usual, manifest), _machine(usual)
    base = load_config(find_recipe(Path(recipe_name(facts.num_clips, machine.gpu))), [root, *arguments.overrides])
    recipe = choose_recipe(facts, machine, base, arguments.num_clusters)
    settings = [*recipe.settings, *arguments.overrides]
    say(f"recipe: {recipe.reason}" + _override(arguments))
    for remark in recipe.remarks:
        say(f"note: {remark}")
    minutes = arguments.minutes or MINUTES
    asked = {"num_clusters": arguments.num_clusters, "minutes": minutes, "overrides": list(arguments.overrides)}
    plan = Plan(os.path.abspath(arguments.folder), asked, recipe.config, settings)
    config = load_config(find_recipe(Path(recipe.config)), [root, *settings])
    _require_clips(config, manifest)
    if any(word.startswith("trainer.max_epochs=") for word in arguments.overrides):
        say(f"plan: {config.trainer.max_epochs} epochs, as asked for")
    else:
        cost = _measure(config, judge_for(config, manifest))
        length = plan_length(minutes, cost, facts.num_clips // config.optim.batch_size, base)
        own = {word.split("=")[0] for word in arguments.overrides}
        plan.settings += [word for word in length.settings if word.split("=")[0] not in own]
        plan.epoch_s, plan.labelling_s = cost.epoch_s, cost.labelling_s
        say(f"plan: {describe_length(length, minutes)}")
    run.mkdir(parents=True, exist_ok=True)
    _write_plan(plan, run)
    return plan


def _override(arguments: LabelArguments) -> str:
    return f"; changed as asked for: {' '.join(arguments.overrides)}" if arguments.overrides else ""


def _look(arguments: LabelArguments, usual: Config, run: Path) -> pa.Table:
    """Scan the folder, or open what was prepared; facts of every file.

    Raises:
        UsageError: no folder, no media file, no clip to train on.
        DataError: too many files cannot be used.
    """
    prepared = open_prepared(usual)
    if prepared is not None:
        return prepared[0]
    data = usual.data
    result = scan(
        ScanArguments(
            root=data.root,
            list=data.list,
            source=data.source,
            layout=data.layout,
            clip_s=SHORTEST_S,
            audio_policy=data.audio_policy,
            workers=data.scan_workers,
            timeout_s=data.timeout_s,
            allow_links=data.allow_links,
            cache_dir=data.cache_dir,
            out=run / "manifest.parquet",
        )
    )
    manifest = read_manifest(result.manifest)
    check_bad_fraction(manifest, data.max_bad_fraction)
    good = len(usable(manifest))
    bad = f"; not: {describe_bad(manifest)}; all of it: {result.report}" if good < len(manifest) else ""
    say(f"{good:,} of {len(manifest):,} files can be used{bad}")
    return manifest


def _facts(usual: Config, manifest: pa.Table) -> FolderFacts:
    """What decides on the recipe, of the clips to train on."""
    rows = probed(select_split(manifest, usual.data.train_split))
    durations_s = rows["duration_s"].to_numpy()
    clip_s = choose_clip_s(durations_s.tolist(), usual.data.clip_s)
    rows = rows.filter(pc.greater_equal(rows["duration_s"], clip_s))
    with_sound = pc.sum(pc.equal(rows["audio_state"], "ok")).as_py() or 0
    median_s = float(np.median(durations_s)) if len(durations_s) else 0.0
    request = request_of(usual, MODALITIES)
    decoded_gb = estimate_gb(rows, request.size, request.sample_rate)
    return FolderFacts(len(rows), with_sound, median_s, clip_s, decoded_gb)


def _machine(usual: Config) -> MachineFacts:
    gpu = torch.cuda.is_available() and usual.trainer.accelerator != "cpu"
    cache_dir = Path(usual.data.cache_dir).absolute()
    folder = next(parent for parent in (cache_dir, *cache_dir.parents) if parent.is_dir())
    return MachineFacts(
        cores=len(os.sched_getaffinity(0)),
        gpu=gpu,
        bfloat16=gpu and torch.cuda.is_bf16_supported(including_emulation=False),
        disk_gb=shutil.disk_usage(folder).free / 1e9,
    )


def _require_clips(config: Config, manifest: pa.Table) -> None:
    """Refuse what training would refuse, before anything is measured."""
    num_clips = len(usable(select_split(judge_for(config, manifest), config.data.train_split)))
    needed = max(config.heads.num_clusters, config.optim.batch_size)
    if num_clips < needed:
        raise UsageError(
            f"{config.data.root} has {num_clips} usable clips to train on, and {config.heads.num_clusters} clusters in "
            f"steps of {config.optim.batch_size} clips need {needed}: more clips, or fewer clusters (-k)"
        )


def _measure(config: Config, manifest: pa.Table) -> Cost:
    """Try how fast this machine trains on these clips."""
    say(f"measuring how fast this machine is, {about(1.5 * _TRIAL_S)}")
    model = measure_model(config, _TRIAL_S)
    prepared = open_prepared(config)
    sample = SampledFiles(manifest, prepared[1] if prepared else None, len(manifest))
    with tempfile.TemporaryDirectory(prefix="selavi-label-") as folder:
        data = measure_data(config, sample, Path(folder), _TRIAL_S / 2)
    at_once = config.trainer.accelerator != "cpu" and config.data.num_workers > 0
    combine = max if at_once else lambda a, b: a + b
    num_clips = len(usable(select_split(manifest, config.data.train_split)))
    in_steps = num_clips // config.optim.batch_size * config.optim.batch_size
    passes = config.labelling.head_groups * num_clips
    return Cost(
        epoch_s=in_steps * combine(1 / model.training, 1 / data.loader),
        labelling_s=passes * combine(1 / model.labelling, 1 / data.loader) + _LABELLING_S,
    )


# ---- training ----


def _train(arguments: LabelArguments, run: Path, plan: Plan) -> bool:
    """Train what is not trained yet; returns whether there was something to do."""
    finished = RunFolder(run).settings.exists() and is_finished(load_run_config(run))
    if finished and arguments.more is None:
        return False
    if finished:
        epochs = _more(run, plan, arguments.more or arguments.minutes or plan.asked["minutes"])
        training = TrainArguments(overrides=[f"run_dir={run}"], more=epochs)
    else:
        training = TrainArguments(Path(plan.recipe), _settings(arguments, run, plan, "resume=auto"))
    try:
        train(training)
    except Interrupted as error:
        raise Interrupted(f"stopped; the same command goes on: {again(arguments)}", error.exit_code) from error
    return True


def _settings(arguments: LabelArguments, run: Path, plan: Plan, *more: str) -> list[str]:
    return [f"data.root={arguments.folder}", *plan.settings, f"run_dir={run}", *more]


def _more(run: Path, plan: Plan, minutes: float) -> int:
    """Epochs that fit into so many minutes."""
    config = load_run_config(run)
    if not plan.epoch_s:
        cost = _measure(config, read_manifest(RunFolder(run).manifest))
        plan.epoch_s, plan.labelling_s = cost.epoch_s, cost.labelling_s
    epochs = more_epochs(minutes, Cost(plan.epoch_s, plan.labelling_s), config)
    say(f"plan: {epochs} more epochs, {about(epochs * plan.epoch_s)}")
    return epochs


# ---- the end ----


def _by_hand(arguments: LabelArguments, run: Path, plan: Plan) -> tuple[str, ...]:
    return (
        command("train", "--config", plan.recipe, *_settings(arguments, run, plan)),
        command("evaluate", run),
        command("export", run),
    )


def _other_splits(files: RunFolder, split: str) -> tuple[str, ...]:
    """Splits with usable clips that were not trained on."""
    names = usable(read_manifest(files.manifest))["split"].to_pylist()
    return tuple(sorted(set(filter(None, names)) - {split}))
