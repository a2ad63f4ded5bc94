"""Encode the shards of a list of clips, and put them together."""

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from datamodules.index.new_clips import LOCK, fix_list, list_clips
from datamodules.loading.new_clips import ClipList
from datamodules.stores.new_vectors import state_of
from selavi.atomic import locked
from selavi.augment import Augment
from selavi.batch import ClipBatch
from selavi.commands.embed import CRAFTED, TORCHVISION, EmbedArguments, EmbedResult
from selavi.commands.shard_work import do_shards
from selavi.config import Config, as_dict, chosen, freedom
from selavi.encoders.crafted import crafted_features
from selavi.errors import UsageError
from selavi.id_tables import load_array
from selavi.inference.assigned import check_bad, count_statuses, settings_digest
from selavi.inference.device import best_device
from selavi.inference.embedding import (
    IDS,
    Encode,
    embed_shards_of,
    encoder_of_function,
    put_together,
    torchvision_encoder,
)
from selavi.inference.load import load_model
from selavi.labelling.rule import LabelRule
from selavi.modalities import reads_sound
from selavi.runs.launch import task_of
from selavi.runs.record import load_run

SETTINGS = "embed.json"


def embed_shards(arguments: EmbedArguments, config: Config) -> EmbedResult:
    """Encode this task's shards, those that are not there yet; put them together where all are there."""
    number, count = task_of(arguments.task, os.environ)
    names = list(arguments.modalities or config.kinds)
    device = best_device(config.trainer.accelerator)
    encoders, made_by = _encoders_of(arguments, config, names, device)
    settings = {
        "with": arguments.encoder,
        "encoder": made_by,
        "paths": [path if "://" in path else os.path.abspath(path) for path in arguments.paths],
        "modalities": names,
        "views": arguments.views,
        "random": arguments.random,
        "seed": config.seed,
        "dtype": arguments.dtype,
        "shard_clips": arguments.shard_clips,
        "layout": arguments.layout,
    }
    make = partial(
        list_clips,
        arguments.paths,
        config,
        reads_sound(config, names),
        arguments.allow_links,
        arguments.layout,
    )
    fix_list(arguments.out, settings, make, SETTINGS)
    clips = ClipList(arguments.out, config, names, arguments.shard_clips, new_root=arguments.root)
    limit = config.data.max_bad_fraction if arguments.max_bad_fraction is None else arguments.max_bad_fraction
    if not (clips.out / IDS).exists():  # else the vectors are put together
        clips.forget_passing(number, count)
    todo = clips.todo(number, count)
    if todo:
        clips.require_media()
        augment = Augment(config).to(device)

        def work(batches: Iterable[ClipBatch]) -> Iterator[Counter[str]]:
            on_device = (batch.to(device) for batch in batches)
            return embed_shards_of(encoders, augment, on_device, clips, config, settings)

        do_shards(
            clips,
            todo,
            work,
            views=arguments.views,
            workers=arguments.workers,
            device=device,
            limit=limit,
            doing="encoding",
            done="encoded",
            random=arguments.random,
        )
    num_missing = clips.num_shards - len(clips.done())
    counts, shapes = Counter[str](), {}
    if not num_missing:
        with locked(clips.out / LOCK):
            counts = count_statuses(clips.done())
            check_bad(counts, clips, limit, "encoded")
            if not (clips.out / IDS).exists():
                put_together(clips, names, arguments.views, arguments.dtype)
            shutil.rmtree(clips.features(0).parent, ignore_errors=True)
            shapes = {name: load_array(clips.out / f"{name}.npy").shape for name in names}
    return EmbedResult(arguments.out, (number, count), clips.num_shards, num_missing, counts, shapes, arguments.views)


def _encoders_of(
    arguments: EmbedArguments, config: Config, names: list[str], device: torch.device
) -> tuple[dict[str, Encode], Any]:
    """The encoder of each modality on a device, and what of it the vectors depend on, in plain JSON types."""
    name = arguments.encoder
    given = sorted((key, value) for key, value in chosen(as_dict(config)).items() if not freedom(key))
    if name == CRAFTED:
        crafted = crafted_features(config)
        _require_all(names, crafted)
        return {modality: crafted[modality].to(device).eval() for modality in names}, repr(given)
    if name.startswith(TORCHVISION):
        encoder = torchvision_encoder(name.removeprefix(TORCHVISION), Path(arguments.weights), device)
        return {names[0]: encoder}, [repr(given), state_of({"weights": arguments.weights})]
    if ":" in name:
        return {names[0]: encoder_of_function(name, device)}, repr(given)
    run = load_run(Path(name))
    model, _ = load_model(run, device)
    digest = settings_digest(config, run.checkpoint["state_dict"], LabelRule.from_tensors(run.checkpoint["label_bank"]))
    return {modality: model.encoders[modality] for modality in names}, digest


def _require_all(names: list[str], crafted: Any) -> None:
    missing = [name for name in names if name not in crafted]
    if missing:
        raise UsageError(f"--modalities {missing[0]}: there are no crafted features of it")
