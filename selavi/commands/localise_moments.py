"""Windows around the moments of boxes, read once more: what their sound says, and the features inside their maps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from datamodules.index.manifest import select_split
from datamodules.loading.sampling import ChosenWindow
from datamodules.loading.views import ClipLoaders
from datamodules.stores.opening import open_media
from selavi.commands.evidence import BATCH_SIZE
from selavi.inference.device import best_device
from selavi.inference.load import load_model
from selavi.localisation import evidence
from selavi.localisation.maps import MAP_KINDS
from selavi.localisation.moments import heard_modalities, shown_features, sounding
from selavi.meter import follow
from selavi.runs.record import Run


@dataclass(frozen=True)
class MomentFacts:
    """What the windows around n moments say."""

    sounding: np.ndarray
    """(n,) float32; nan where there is no sound (selavi.localisation.moments.sounding)."""
    inside: np.ndarray
    """(n, C) float32, mean features inside the map; (n, 0) where none were asked for.  nan where the picture cannot be
    decoded."""
    whole: np.ndarray
    """The same of the whole picture."""


def look_at_moments(
    run: Run,
    split: str,
    head: int,
    moments: Sequence[Mapping[str, Any]],
    labelled: Mapping[str, int],
    *,
    maps: str,
    with_features: bool,
) -> MomentFacts:
    """Read the window around each moment.

    Args:
        run: whose model listens and looks.
        split: of the clips.
        head: column of the label bank.
        moments: n rows, each with id and time_s.
        labelled: cluster of each clip, by id, as it was labelled: evidence is for that one, whatever it is called now.
        maps: their kind, where the pictures are looked at.
        with_features: whether the pictures are looked at too.
    """
    config = run.config
    heard = heard_modalities(config, head)
    modalities = {*heard, *(MAP_KINDS[maps].read_for(evidence.PICTURED, config, head) if with_features else [])}
    if not modalities or not moments:
        return MomentFacts(*(np.full(shape, np.nan, np.float32) for shape in (len(moments), *[(len(moments), 0)] * 2)))
    together = tuple(name for name in config.kinds if name in modalities or config.is_fused)
    by_clip: dict[str, list[int]] = {}
    for number, moment in enumerate(moments):
        by_clip.setdefault(moment["id"], []).append(number)
    rows = select_split(run.manifest, split)
    rows = rows.take(pc.index_in(pa.array(by_clip, pa.string()), value_set=rows["id"]))
    placed = [
        evidence.window_around(moments[number]["time_s"], duration_s, config.data.clip_s)
        for duration_s, numbers in zip(rows["duration_s"].to_pylist(), by_clip.values(), strict=True)
        for number in numbers
    ]
    order = [number for numbers in by_clip.values() for number in numbers]
    starts = iter(placed)
    windows = [[ChosenWindow(next(starts)[0], together) for _ in numbers] for numbers in by_clip.values()]
    shares = torch.tensor([share for _, share in placed])
    clusters = torch.tensor([labelled[moments[number]["id"]] for number in order])
    loaders = ClipLoaders(config, run.manifest, open_media(config, run.manifest, may_decode_ahead=False))
    model, augment = load_model(run, best_device(config.trainer.accelerator))
    num_channels = model.num_features[evidence.PICTURED] if with_features else 0
    sounds = np.full(len(moments), np.nan, np.float32)
    inside, whole = (np.full((len(moments), num_channels), np.nan, np.float32) for _ in range(2))
    batches = loaders.window_loader(rows, windows, BATCH_SIZE)
    begin = 0
    for batch in follow(batches, "moments", len(batches), "batches"):
        here = slice(begin, begin + len(batch.index))
        begin, numbers = here.stop, order[here]
        sounds[numbers] = sounding(model, augment, batch, clusters[here], head, config).numpy()
        if with_features:
            shown_maps = MAP_KINDS[maps].find(model, augment, batch, clusters[here], head, config)[evidence.PICTURED]
            has_picture = batch.present[evidence.PICTURED].numpy()
            shown = shown_features(model, augment, batch, shown_maps, shares[here])
            for target, values in zip((inside, whole), shown, strict=True):
                target[numbers] = np.where(has_picture[:, None], values.numpy(), np.nan)
    return MomentFacts(sounds, inside, whole)
