"""Encoders of any origin, and the vectors that they make of clips, shard by shard."""

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model, list_models

from selavi.atomic import write_atomically
from selavi.augment import Augment
from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.errors import UsageError
from selavi.guarded.parquet import read_parquet, write_parquet
from selavi.id_tables import begin_array
from selavi.inference.assigned import Shards, count_statuses, why_lost
from selavi.pretrained.read import read_torch
from selavi.tensor_files import read_tensors, write_tensors

Encode = Callable[[Tensor], Tensor]
"""Augmented clips of a modality (B, ...) -> vectors (B, D)."""
IDS = "ids.csv"
"""Name of the file with the id of each row."""
PART_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "status", "reason")])


@dataclass(frozen=True)
class EncodedBatch:
    """What is kept of a batch of views."""

    row: int
    """The row of its first clip."""
    present: dict[str, Tensor]
    """(B,) bool a modality."""
    vectors: dict[str, Tensor]
    """(B, D) float32 a modality, NaN where a view lacks it."""
    errors: list[tuple[int, str]]
    """Row of a clip that could not be decoded, and why."""


def torchvision_encoder(name: str, weights: Path, device: torch.device) -> Encode:
    """One of torchvision's models with weights from a file, without the layer that names classes.

    One of pictures gives of frames (B, 3, T, h, w) the mean over them.

    Args:
        name: as torchvision.models.get_model knows it.
        weights: file with its state_dict.
        device: that it is put on.

    Raises:
        UsageError: there is no such model, the file cannot be read, or it is of another model.
    """
    of_clips = list_models(import_module("torchvision.models.video"))
    models = [*list_models(torchvision.models), *of_clips]
    if name not in models:
        raise UsageError(f"torchvision has no model {name!r} that names classes; it has {', '.join(models)}")
    model = get_model(name, weights=None)
    try:
        model.load_state_dict(read_torch(weights))
    except (RuntimeError, TypeError, AttributeError) as error:
        detail = " ".join(str(error).split())[:300]
        raise UsageError(f"{weights} holds no weights of torchvision's {name}: {detail}") from error
    last = [key for key, layer in model.named_modules() if isinstance(layer, nn.Linear)]
    if not last:
        raise UsageError(f"torchvision's {name} has no linear layer that names classes: name an encoder of your own")
    model.set_submodule(last[-1], nn.Identity())
    model = model if name in of_clips else _OfFrames(model)
    return partial(_checked, f"torchvision:{name}", model.to(device).eval())


class _OfFrames(nn.Module):
    """A model of pictures (B, 3, h, w), on these or on frames (B, 3, T, h, w)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        if inputs.dim() == 4:
            return self.model(inputs)
        frames = inputs.transpose(1, 2)
        return self.model(frames.flatten(0, 1)).unflatten(0, frames.shape[:2]).mean(1)


def encoder_of_function(name: str, device: torch.device) -> Encode:
    """What MODULE:FUNCTION returns; the module may lie in the folder where the command was typed.

    Args:
        name: MODULE:FUNCTION, which takes nothing and returns a torch module, or a function of a batch.
        device: that a module is put on.

    Raises:
        UsageError: there is no such function, it fails, or returns something else.
    """
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        encoder = getattr(import_module(module), function)()
    except Exception as error:  # it is the user's code
        raise UsageError(f"--with {name}: {type(error).__name__}: {error}") from error
    if not callable(encoder):
        raise UsageError(f"--with {name}: expected a function that returns an encoder, got {type(encoder).__name__}")
    return partial(_checked, name, encoder.to(device).eval() if isinstance(encoder, nn.Module) else encoder)


def _checked(name: str, encoder: Encode, inputs: Tensor) -> Tensor:
    """(B, D) of an encoder of the user's.

    Raises:
        UsageError: it fails, or gives something else than a vector a clip.
    """
    try:
        vectors = encoder(inputs)
    except Exception as error:  # it is the user's code
        shape = tuple(inputs.shape)
        raise UsageError(f"--with {name} fails on clips {shape}: {type(error).__name__}: {error}") from error
    got = tuple(vectors.shape) if isinstance(vectors, Tensor) else type(vectors).__name__
    if not isinstance(vectors, Tensor) or vectors.dim() != 2 or len(vectors) != len(inputs):
        raise UsageError(f"--with {name}: expected a tensor ({len(inputs)}, D), a vector a clip, got {got}")
    return vectors


@torch.no_grad()
def embed_shards_of(
    encoders: Mapping[str, Encode],
    augment: Augment,
    batches: Iterable[ClipBatch],
    clips: Shards,
    config: Config,
    settings: Mapping[str, Any],
) -> Iterator[Counter[str]]:
    """Encode batches, none of which has clips of two shards, and write the files of each shard once it is whole.

    Args:
        encoders: of each modality, in evaluation mode.
        augment: of the same configuration and device.
        batches: every clip's views in a row, of some shards, in order; on the same device.
        clips: which shards, and where they go.
        config: how clips are cut.
        settings: with (the encoder's name), views, random, dtype.

    Yields:
        After each shard, its clips by status.

    Raises:
        UsageError: an encoder gives no vectors, or such as the type cannot hold.
    """
    num_views, dtype = settings["views"], getattr(torch, settings["dtype"])
    encoded = (_encode(encoders, augment, batch, settings["random"]) for batch in batches)
    for shard, group in groupby(encoded, lambda batch: batch.row // clips.shard_clips):
        rows, parts = clips.rows_of(shard), list(group)
        present = torch.stack([torch.cat([batch.present[name] for batch in parts]) for name in encoders])
        has_any = present.any(0).view(-1, num_views).any(1)
        kept = has_any.repeat_interleave(num_views)
        tensors = {}
        for name in encoders:
            vectors = torch.cat([batch.vectors[name] for batch in parts])
            has_one = torch.cat([batch.present[name] for batch in parts])
            _require_finite(settings, name, vectors[has_one].to(dtype))
            tensors[name] = vectors[kept].to(dtype)
        write_tensors(clips.features(shard), tensors, {})
        table = _part_table(rows, shard * clips.shard_clips, has_any, parts, config)
        write_parquet(table, clips.part(shard))  # last: that it is there says that the shard is done
        yield Counter(table["status"].to_pylist())


def _encode(encoders: Mapping[str, Encode], augment: Augment, batch: ClipBatch, random: bool) -> EncodedBatch:
    inputs = augment(batch, random)
    vectors = {name: encode(inputs[name]).float().cpu() for name, encode in encoders.items()}
    for name, values in vectors.items():
        values[~batch.present[name].cpu()] = torch.nan
    present = {name: batch.present[name].cpu() for name in encoders}
    return EncodedBatch(int(batch.index[0]), present, vectors, batch.errors)


def _require_finite(settings: Mapping[str, Any], name: str, vectors: Tensor) -> None:
    count = int((~vectors.isfinite()).any(1).sum())
    if count:
        advice = "; --dtype float32 holds larger numbers" if settings["dtype"] == "float16" else ""
        raise UsageError(
            f"--with {settings['with']}: {count} of {len(vectors)} vectors of {name} have numbers that are not finite "
            f"as {settings['dtype']}{advice}"
        )


def _part_table(
    rows: pa.Table, first_row: int, has_any: Tensor, batches: Sequence[EncodedBatch], config: Config
) -> pa.Table:
    """Status and reason of each clip of a shard."""
    errors = {row - first_row: reason for batch in batches for row, reason in batch.errors}
    lost = {
        place: why_lost(config, errors.get(place), dict.fromkeys(config.kinds, False)) for place in range(len(rows))
    }
    status = [("ok", None) if is_there else lost[place] for place, is_there in enumerate(has_any.tolist())]
    columns = [rows["id"].combine_chunks(), *(pa.array(column, pa.string()) for column in zip(*status, strict=True))]
    return pa.table(columns, schema=PART_SCHEMA)


def put_together(clips: Shards, names: Sequence[str], num_views: int, dtype: str) -> None:
    """Write OUT/NAME.npy of each modality, shard by shard, from the files of all shards; at last OUT/ids.csv.

    Args:
        clips: all of whose shards are done.
        names: of the modalities.
        num_views: rows of each clip.
        dtype: of the files.
    """
    num_shards, num_rows = len(clips.done()), count_statuses(clips.done())["ok"] * num_views
    code = np.dtype(dtype).newbyteorder("<").str
    with ExitStack() as stack:
        files = {}
        for name in names:
            temporary = stack.enter_context(write_atomically(clips.out / f"{name}.npy"))
            files[name] = stack.enter_context(temporary.open("wb"))
        for shard in range(num_shards):
            tensors, _ = read_tensors(clips.features(shard))
            for name, file in files.items():
                if shard == 0:
                    begin_array(file, code, (num_rows, tensors[name].shape[1]))
                file.write(tensors[name].numpy().data)
    _write_ids(clips, num_views)


def _write_ids(clips: Shards, num_views: int) -> None:
    """Write the id of each row, in the order of the files of vectors."""
    schema = pa.schema([("id", pa.string())])
    with write_atomically(clips.out / IDS) as temporary, pa_csv.CSVWriter(temporary, schema) as writer:
        for part in clips.done():
            table = read_parquet(part, ["id", "status"])
            ids = table.filter(pc.equal(table["status"], "ok"))["id"].combine_chunks()
            writer.write_table(pa.table([ids.take(np.repeat(np.arange(len(ids)), num_views))], schema=schema))
