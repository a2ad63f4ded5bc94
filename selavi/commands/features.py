"""Features of a run's clips for the gallery's map and neighbours."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.manifest import select_split, usable
from datamodules.loading.views import ClipLoaders
from datamodules.stores.opening import open_media
from selavi.commands.opening import open_run
from selavi.errors import DataError, UsageError
from selavi.inference.device import best_device
from selavi.inference.encode import ClipFeatures, encode_parts
from selavi.inference.features import features_path, kept_features
from selavi.inference.load import load_model
from selavi.meter import follow
from selavi.runs.folder import RunFolder
from selavi.runs.record import Run


def features_of(
    run_dir: Path, split: str, ids: pa.ChunkedArray, root: str = ""
) -> tuple[dict[str, np.ndarray], str | None]:
    """Features of some clips of a split, kept in the run folder, or why there are none.

    Args:
        run_dir: the run's folder.
        split: of the clips.
        ids: (N,) of the clips wanted.
        root: where the media are now; "": where they were.

    Returns:
        (N, D) float16 a modality, zeros for a clip without it; or nothing and the reason in words.
    """
    try:
        run = open_run(run_dir, root)
        rows = usable(select_split(run.manifest, split))
        path = features_path(run_dir, split)
        features = kept_features(path, rows, RunFolder(run_dir).last_checkpoint, 1, partial(_encode, run))
    except (UsageError, DataError) as error:
        return {}, f"the features of the clips could not be computed: {error}"
    places = pc.index_in(ids, value_set=rows["id"].combine_chunks()).to_numpy()
    return {name: values.numpy()[places] for name, values in features.items()}, None


def _encode(run: Run, rows: pa.Table, part: int) -> Iterator[ClipFeatures]:
    """Encode rows of the run's manifest, one view each, `part` of them at a time."""
    loaders = ClipLoaders(run.config, run.manifest, open_media(run.config, run.manifest))
    model, augment = load_model(run, best_device(run.config.trainer.accelerator))
    loader = loaders.view_loader(rows, block=part)
    batches = follow(loader, f"encoding {len(rows)} clips", len(loader), unit="batches")
    return encode_parts(model, augment, batches, len(rows), 1, part)
