"""Features of a run's clips for the gallery's map and neighbours."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.clips import ClipDataModule, Media, cached
from datamodules.index.manifest import select_split, usable
from datamodules.progress import follow
from selavi.augment import Augment
from selavi.commands.opening import open_run
from selavi.config import Config
from selavi.errors import DataError, UsageError
from selavi.inference.encode import ClipFeatures, best_device, encode_clips
from selavi.inference.features import features_path, kept_features
from selavi.inference.load import load_model
from selavi.model import SelaviModel
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
        encoder = _Encoder(run, split)
        found = kept_features(features_path(run_dir, split), rows, RunFolder(run_dir).last_checkpoint, 1, encoder)
    except (UsageError, DataError) as error:
        return {}, f"the features of the clips could not be computed: {error}"
    places = pc.index_in(ids, value_set=rows["id"].combine_chunks()).to_numpy()
    return {name: values.numpy()[places] for name, values in found.items()}, None


class _Encoder:
    """Encodes rows of a manifest, one view each; opens the run's model and media when the first rows come."""

    def __init__(self, run: Run, split: str) -> None:
        self.run, self.split = run, split
        self.opened: tuple[Config, Media, SelaviModel, Augment] | None = None

    def __call__(self, rows: pa.Table) -> ClipFeatures:
        config, media, model, augment = self._open()
        data = ClipDataModule(config, rows, media)
        loader, _ = data.evaluation_loader(self.split)
        batches = follow(loader, f"encoding {len(rows)} clips", len(loader), unit="batches")
        return encode_clips(model, augment, batches, len(rows), 1)

    def _open(self) -> tuple[Config, Media, SelaviModel, Augment]:
        if self.opened is None:
            # A module of clips needs training clips: here those of the part are.
            data = replace(self.run.config.data, train_split=self.split)
            config, media = replace(self.run.config, data=data), cached(self.run.config, self.run.manifest)
            self.opened = config, media, *load_model(self.run, best_device(config.trainer.accelerator))
        return self.opened
