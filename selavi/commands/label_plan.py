"""What `selavi label` decides at its first call and keeps: RUN/label.json; imported late, for its imports are slow."""

import json
import os
import tempfile
from collections.abc import Sequence
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
from datamodules.index.cut import cut_for
from datamodules.index.manifest import describe_bad, probed, select_split, usable
from datamodules.index.moved import moved_to
from datamodules.stores.cache import estimate_gb
from datamodules.stores.opening import open_prepared
from selavi.atomic import write_text
from selavi.commands.label import MINUTES, LabelArguments, are_pictures
from selavi.commands.recipes import find_recipe
from selavi.commands.scan import ScanArguments, scan
from selavi.config import Config, load_config
from selavi.errors import UsageError
from selavi.filesystem import free_disk, why_gone
from selavi.guarded.json_file import read_json
from selavi.meter import say
from selavi.modalities import reads_stills, request_of_media
from selavi.planning import (
    LONG_S,
    SHORTEST_S,
    Cost,
    FolderFacts,
    MachineFacts,
    Rates,
    Recipe,
    choose_clip_s,
    choose_cut,
    choose_recipe,
    cost_of,
    describe_length,
    plan_length,
    recipe_name,
)
from selavi.runs.folder import RunFolder
from selavi.runs.manifest import read_manifest
from selavi.training.speed import measure_model
from selavi.wording import about, duration

PLAN = "label.json"
_SCANNED = {"manifest.parquet", "triage.md"}
"""What a call leaves that ended before it had a plan."""
_TRIAL_S = 8.0
"""To measure how fast the model is; half as long for the data."""
_LABELLING_S = 0.1
"""What a labelling takes beside the reading and encoding of its clips."""


@dataclass
class Plan:
    """What was decided, kept until the run is given up."""

    folder: str
    asked: dict[str, Any]
    """Clusters, minutes and settings that the first call named."""
    recipe: str
    settings: list[str]
    """On top of the recipe."""
    cost: Cost | None = None
    """As measured; None: not."""
    exported: int = 0
    """Epochs of the training that tables and page were made of."""


def write_plan(plan: Plan, run: Path) -> None:
    """Write RUN/label.json."""
    write_text(run / PLAN, json.dumps(asdict(plan), indent=2) + "\n")


def read_plan(run: Path) -> Plan | None:
    """The plan of an earlier call; None for the first.

    Raises:
        UsageError: the run folder holds something else, or the plan is damaged.
    """
    path = run / PLAN
    if not path.exists():
        others = sorted({entry.name for entry in run.iterdir()} - _SCANNED) if run.exists() else []
        if others:
            raise UsageError(
                f"{run} holds something that `label` did not write ({others[0]}); name another folder: --out"
            )
        return None
    try:
        plan = Plan(**read_json(path))
        plan.cost = Cost(**plan.cost) if plan.cost else None  # type: ignore[arg-type]
        return plan
    except (OSError, TypeError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {error}; name another folder: --out") from error


def check_same(plan: Plan, arguments: LabelArguments, run: Path) -> None:
    """Refuse what was not asked for when the run was begun.

    Raises:
        UsageError: another folder, number of clusters or settings.
    """
    folder = os.path.abspath(arguments.folder)
    if plan.folder != folder and has_moved(plan, arguments, run):
        say(f"{plan.folder} is not there any more, and {folder} holds its clips: they keep their labels")
        plan.folder = folder
        write_plan(plan, run)
    if plan.folder != folder:
        raise UsageError(f"{run} holds the labels of {plan.folder}; name another folder for those of {folder}: --out")
    for option, name in (("-k", "num_clusters"), ("settings", "overrides")):
        asked, before = getattr(arguments, name), plan.asked[name]
        if asked and asked != before:
            raise UsageError(f"{run} was begun with {option} {before or 'not given'}, now {asked}; name another --out")
    if arguments.minutes not in (None, plan.asked["minutes"]):
        say(f"the plan for {plan.asked['minutes']:g} min, made when {run} was begun, is kept; --more trains longer")


def has_moved(plan: Plan, arguments: LabelArguments, run: Path) -> bool:
    """Whether the folder that a run was begun with is gone, and the one that is named now holds its clips."""
    manifest = RunFolder(run).manifest
    if not why_gone(plan.folder) or not manifest.exists():
        return False
    return bool(moved_to(read_manifest(manifest), [f"data.root={arguments.folder}"]))


def make_plan(arguments: LabelArguments, run: Path) -> Plan:
    """Look at the clips and the machine, choose settings and say which, and keep them.

    Raises:
        UsageError: there is nothing to train on, or not enough.
        DataError: too many files cannot be used.
    """
    _check_codecs()
    overrides = list(arguments.overrides)
    usual = _config("images" if are_pictures(arguments) else "small", arguments)
    manifest = _look(usual, run)
    cut = _choose_cut(arguments, usual, manifest)
    usual = _config("images" if are_pictures(arguments) else "small", arguments, cut)
    manifest = cut_for(usual, manifest)
    recipe = _choose(arguments, usual, manifest)
    plan = Plan(
        folder=os.path.abspath(arguments.folder),
        asked={
            "num_clusters": arguments.num_clusters,
            "minutes": arguments.minutes or MINUTES,
            "overrides": overrides,
        },
        recipe=recipe.config,
        settings=[*cut, *recipe.settings, *overrides],
    )
    config = _config(recipe.config, arguments, [*cut, *recipe.settings])
    manifest = judge_for(config, manifest)
    _require_clips(config, manifest)
    if any(word.startswith("trainer.max_epochs=") for word in overrides):
        say(f"plan: {config.trainer.max_epochs} epochs, as asked for")
    else:
        _plan_length(plan, config, _config(recipe.config, arguments), manifest)
    run.mkdir(parents=True, exist_ok=True)
    write_plan(plan, run)
    return plan


def _config(recipe: str, arguments: LabelArguments, chosen: Sequence[str] = ()) -> Config:
    """The settings of a recipe, then those chosen, then those asked for."""
    root = f"data.root={arguments.folder}"
    return load_config(find_recipe(Path(recipe)), [root, *chosen, *arguments.overrides])


def _check_codecs() -> None:
    for check in check_codecs(run_probe(PROBES["av"])):
        if check.mark != "ok":
            say(f"{check.mark}: {check.name}: {check.finding}. {check.advice}")


def _choose_cut(arguments: LabelArguments, usual: Config, manifest: pa.Table) -> tuple[str, ...]:
    """Whether recordings are cut, which is said; nothing where that was asked for, or the clips are prepared."""
    asked = any(word.startswith("data.cut=") for word in arguments.overrides)
    if asked or reads_stills(usual) or open_prepared(usual) is not None:
        return ()
    durations_s = probed(manifest)["duration_s"].to_numpy()
    cut = choose_cut(durations_s.tolist())
    if cut:
        longer = int((durations_s > LONG_S).sum())
        say(
            f"recordings: {longer:,} of {len(durations_s):,} last over a minute and hold most of the "
            f"{duration(float(durations_s.sum()))} that there are, so they are cut into pieces, each a clip with a "
            f"label of its own ({' '.join(cut)}; data.cut=whole leaves each as one)"
        )
    return cut


def _choose(arguments: LabelArguments, usual: Config, manifest: pa.Table) -> Recipe:
    """Choose by what is there, and say it."""
    facts, machine = _facts(usual, manifest), _machine(arguments, usual)
    base = _config(recipe_name(facts.num_clips, machine.gpu, facts.pictures), arguments)
    recipe = choose_recipe(facts, machine, base, arguments.num_clusters)
    changed = f"; changed as asked for: {' '.join(arguments.overrides)}" if arguments.overrides else ""
    say(f"recipe: {recipe.reason}{changed}")
    for remark in recipe.remarks:
        say(f"note: {remark}")
    return recipe


def _plan_length(plan: Plan, config: Config, base: Config, manifest: pa.Table) -> None:
    """Choose how long to train by what is measured, where that is not asked for."""
    minutes = plan.asked["minutes"]
    num_clips = len(usable(select_split(manifest, config.data.train_split)))
    plan.cost = measure(config, manifest)
    length = plan_length(minutes, plan.cost, num_clips // config.optim.batch_size, base)
    asked = {word.partition("=")[0] for word in plan.asked["overrides"]}
    plan.settings += [word for word in length.settings if word.partition("=")[0] not in asked]
    say(f"plan: {describe_length(length, minutes)}")


def _look(usual: Config, run: Path) -> pa.Table:
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
            out=RunFolder(run).manifest,
            pictures=reads_stills(usual),
            task="0/1",
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
    pictures = reads_stills(usual)
    durations_s = rows["duration_s"].to_numpy()
    clip_s = 0.0 if pictures else choose_clip_s(durations_s.tolist(), usual.data.clip_s)
    rows = rows.filter(pc.greater_equal(rows["duration_s"], clip_s))
    with_sound = pc.sum(pc.equal(rows["audio_state"], "ok")).as_py() or 0
    median_s = float(np.median(durations_s)) if len(durations_s) else 0.0
    request = request_of_media(usual)
    decoded_gb = estimate_gb(rows, request.size, request.sample_rate)
    return FolderFacts(len(rows), with_sound, median_s, clip_s, decoded_gb, pictures)


def _machine(arguments: LabelArguments, usual: Config) -> MachineFacts:
    return MachineFacts(
        cores=len(os.sched_getaffinity(0)),
        gpu=torch.cuda.is_available() and "trainer.accelerator=cpu" not in arguments.overrides,
        disk_gb=free_disk(usual.data.cache_dir) / 1e9,
    )


def _require_clips(config: Config, manifest: pa.Table) -> None:
    """Refuse what training would refuse, before anything is measured."""
    num_clips = len(usable(select_split(manifest, config.data.train_split)))
    needed = max(config.heads.num_clusters, config.optim.batch_size)
    if num_clips < needed:
        raise UsageError(
            f"{config.data.root} has {num_clips} usable clips to train on, and {config.heads.num_clusters} clusters in "
            f"steps of {config.optim.batch_size} clips need {needed}: more clips, or fewer clusters (-k)"
        )


def measure(config: Config, manifest: pa.Table) -> Cost:
    """Try how fast this machine trains on these clips."""
    say(f"measuring how fast this machine is, {about(1.5 * _TRIAL_S)}")
    model = measure_model(config, _TRIAL_S)
    prepared = open_prepared(config)
    sample = SampledFiles(manifest, prepared[1] if prepared else None, len(manifest))
    with tempfile.TemporaryDirectory(prefix="selavi-label-") as folder:
        data = measure_data(config, sample, Path(folder), _TRIAL_S / 2)
    at_once = config.trainer.accelerator != "cpu" and config.data.num_workers > 0
    rates = Rates(model.training, model.labelling, data.loader, at_once)
    num_clips = len(usable(select_split(manifest, config.data.train_split)))
    return cost_of(rates, config, num_clips, _LABELLING_S)
