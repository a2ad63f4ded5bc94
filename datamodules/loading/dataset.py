"""One view of one clip, decoded; a file that fails becomes a clip without any modality."""

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from datamodules.loading.sampling import WHICH_ROW, ChosenWindow, View, ViewKey, even_view, random_view
from datamodules.stores.files import FileReader
from datamodules.stores.reader import ClipReader
from selavi.arrays import Selected
from selavi.batch import DecodedClip
from selavi.config import Config
from selavi.media import MediaError, SoundError
from selavi.modalities import Streams, Window, kind_of, requests_of


class ClipDataset(Dataset[DecodedClip]):
    """Clips of some rows of a manifest; addressed by ViewKey, so it holds no state and any worker gives the same.

    Args:
        rows: rows of a manifest.
        config: of the run.
        reader: reads the recordings of these rows; by default their files.
        num_views: how many evenly spaced windows the stream `eval` has.
        num_crops: how many squares of each of these windows it has.
        windows: of each row, for the stream `window`.
        vectors: of these rows, for each modality that comes from a file.
    """

    def __init__(
        self,
        rows: pa.Table,
        config: Config,
        reader: ClipReader | None = None,
        num_views: int = 1,
        num_crops: int = 1,
        windows: Sequence[Sequence[ChosenWindow]] = (),
        vectors: Mapping[str, Selected] = MappingProxyType({}),
    ) -> None:
        self.vectors = dict(vectors)
        self.config, self.num_views, self.num_crops, self.windows = config, num_views, num_crops, windows
        self.reader = FileReader(rows, config.data.timeout_s) if reader is None else reader
        # Columns, never a Python object a row: a million of those take seconds and gigabytes in every process.
        names = {"id", "duration_s"}.union(*(kind_of(config, name).columns for name in config.kinds))
        self.columns = {name: rows[name].combine_chunks() for name in names}

    def __len__(self) -> int:
        return len(self.columns["id"])

    def id_of(self, row: int) -> str:
        """The clip's id."""
        clip_id: str = self.columns["id"][row].as_py()
        return clip_id

    def __getitem__(self, key: ViewKey) -> DecodedClip:
        columns = {name: values[key.row].as_py() for name, values in self.columns.items()}
        view, modalities = self._view(key, columns)
        vectors = {name: read_vector(one, key, view.draws) for name, one in self.vectors.items()}
        return read_view(self.reader, key.row, view, self.config, modalities, columns, vectors)

    def _view(self, key: ViewKey, columns: Mapping[str, Any]) -> tuple[View, Sequence[str]]:
        """The view, and the modalities to read there."""
        config, clip_s = self.config, self.config.data.clip_s
        if key.stream == "window":
            chosen = self.windows[key.row][key.epoch]
            return View(Window(chosen.start_s, clip_s)), chosen.modalities
        duration_s = usable_seconds(columns["duration_s"], columns, config.kinds, config)
        if key.stream == "eval":
            return even_view(key.epoch, self.num_views, duration_s, clip_s, self.num_crops), list(config.kinds)
        return random_view(config.seed, key, columns["id"], duration_s, clip_s), list(config.kinds)


def read_vector(vectors: Selected, key: ViewKey, draws: np.ndarray) -> np.ndarray | None:
    """The vector (D,) of one view of a clip: drawn among those that it has, or the one of the view's number."""
    view = key.epoch if key.stream in ("eval", "window") else draws[None, WHICH_ROW]
    values, present = vectors.read(np.array([key.row]), view)
    return values[0] if present[0] else None


def usable_seconds(duration_s: float, columns: Mapping[str, Any], modalities: Collection[str], config: Config) -> float:
    """Up to where windows of a recording may reach, whose facts are the columns of a manifest."""
    clip_s, policy = config.data.clip_s, config.data.audio_policy
    return min([duration_s, *(kind_of(config, name).seconds(columns, clip_s, policy) for name in modalities)])


def read_view(
    reader: ClipReader,
    row: int,
    view: View,
    config: Config,
    modalities: Collection[str],
    columns: Mapping[str, Any],
    vectors: Mapping[str, np.ndarray | None] = MappingProxyType({}),
) -> DecodedClip:
    """Read one view of the recording in a row; where that fails, it is a clip without any modality.

    Where the sound alone fails, the picture stays, unless data.audio_policy is `require`.

    Args:
        reader: of a table that has this row.
        row: of the table; becomes the clip's index.
        view: which window and square.
        config: of the run.
        modalities: those of the run that shall be read; others are not present.
        columns: facts of the recording, as far as these modalities ask for them.
        vectors: of the clip, for each modality that comes from a file; None where it has none.
    """
    readable = [name for name in modalities if kind_of(config, name).has(columns)]
    values, error = {}, None
    for request, names in requests_of(config, readable).items():
        try:
            streams = reader.read(row, view.window, request) if request else Streams()
        except SoundError as fault:
            streams = Streams() if config.data.audio_policy == "require" else Streams(fault.frames)
            error = f"{fault.reason}: {fault.detail}"
        except MediaError as fault:
            return failed_clip(row, view, config, fault)
        for name in names:
            given = streams._replace(vector=vectors.get(name))
            values[name] = kind_of(config, name).value(given, columns, view.window, config.seen_by(name))
    return _as_clip(row, view, config, values, modalities, error)


def failed_clip(row: int, view: View, config: Config, fault: MediaError) -> DecodedClip:
    """A clip without any modality, of a recording that cannot be read."""
    return _as_clip(row, view, config, {}, (), f"{fault.reason}: {fault.detail}")


def _as_clip(
    row: int,
    view: View,
    config: Config,
    values: Mapping[str, np.ndarray | None],
    modalities: Collection[str],
    error: str | None,
) -> DecodedClip:
    """Tensors of one view, blanks for what is missing; a blank counts as present where data.audio_policy says so."""
    inputs, present = {}, {}
    for name in config.kinds:
        kind, value = kind_of(config, name), values.get(name)
        counts = error is None and name in modalities and kind.blank_counts(config.data.audio_policy)
        present[name] = value is not None or counts
        inputs[name] = torch.from_numpy(kind.blank(config.seen_by(name)) if value is None else value)
    return DecodedClip(row, inputs, present, torch.from_numpy(view.draws.astype(np.float32)), error)
