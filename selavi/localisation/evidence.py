"""Why this cluster: where in the frame and when in the sound the evidence for a clip's cluster lies.

The evidence is HiResCAM's (Draelos and Carin, arXiv 2011.08891): an activation map of the encoder times the gradient of
the score at each position, summed over the channels.  At the last map under a linear head it is the class activation
map of Zhou et al. (CVPR 2016), and its sum over the positions is the score without the bias.  The score is the
cluster's logit minus the mean of all clusters' logits: what raises them all alike changes no probability.

Small inputs leave few positions in the last map (3 x 3 for pictures of 48 pixels), so the deepest map is taken that
has MIN_POSITIONS along each side (docs/evidence.md: what was measured with each).

Axes: B windows of a batch, K clusters, F mel bands, T time.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from selavi.atomic import write_atomically
from selavi.augment import Augment
from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.model import SelaviModel
from selavi.results.evidence import Evidence
from selavi.runs.folder import RunFolder

MIN_POSITIONS = 7
"""Along each side of a map, if any of an encoder's four stages has as many: what the published model's last map of a
112 x 112 picture has."""
NUM_FRAMES = 4
"""Pictures of a thumbnail."""
SHORT_SIDE, LONGEST_SIDE = 32, 256
"""Cells of a picture's evidence."""
BANDS, COLUMNS_PER_WINDOW, MOST_COLUMNS = 32, 32, 640
"""Cells of the sound's evidence."""
MOST_WINDOWS = 60
"""Of the sound; those of longer recordings lie apart."""

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("cluster", pa.int32(), nullable=False),
        pa.field("start_s", pa.float64(), nullable=False),
        pa.field("times_s", pa.list_(pa.float64()), nullable=False),
        pa.field("video", pa.binary()),
        pa.field("video_shape", pa.list_(pa.int32())),
        pa.field("video_peak", pa.float32()),
        pa.field("audio", pa.binary()),
        pa.field("audio_shape", pa.list_(pa.int32())),
        pa.field("audio_peak", pa.float32()),
    ]
)
"""RUN/evidence/SPLIT-hH.parquet, one row a clip; the columns are the fields of Evidence."""


class Place(NamedTuple):
    """A window to look at, and the modality whose evidence it is for."""

    modality: str
    start_s: float


def plan_windows(duration_s: float, clip_s: float, modalities: Sequence[str]) -> list[Place]:
    """Where to look in a recording.

    For the picture a window around each time of the thumbnail, as far as the recording goes; for the sound as few
    windows as cover the recording, evenly spaced, at most MOST_WINDOWS.
    """
    room_s = max(0.0, duration_s - clip_s)
    num_heard = min(max(1, math.ceil(duration_s / clip_s - 1e-6)), MOST_WINDOWS)
    starts_s = {
        "video": [min(max(time_s - clip_s / 2, 0.0), room_s) for time_s in thumbnail_times(duration_s)],
        "audio": [room_s * i / max(1, num_heard - 1) for i in range(num_heard)],
    }
    return [Place(name, start_s) for name in modalities for start_s in starts_s[name]]


def thumbnail_times(duration_s: float) -> np.ndarray:
    """(4,) times of a thumbnail's pictures: (i + 0.5) / 4 of the recording."""
    return (np.arange(NUM_FRAMES) + 0.5) * duration_s / NUM_FRAMES


def explained_modalities(config: Config, head: int) -> list[str]:
    """The modalities that a head of the label bank reads."""
    fused = config.branches != config.modalities
    return list(config.modalities if fused else config.head_of_column(head)[0])


def find_evidence(
    model: SelaviModel,
    augment: Augment,
    batch: ClipBatch,
    clusters: Tensor,
    head: int,
    config: Config,
    *,
    min_positions: int = MIN_POSITIONS,
) -> dict[str, Tensor]:
    """Compute the maps of windows.

    Args:
        model: in evaluation mode; its device is used.
        augment: of the same configuration and device.
        batch: B windows.
        clusters: (B,) the cluster to explain, of each.
        head: column of the label bank (beyond the heads of the first modality where each has labels of its own).
        config: of the run.
        min_positions: along each side of a map, where a stage has as many; 1 takes the last map.

    Returns:
        The part of each position in the score, float32 on the CPU, of each modality that the head reads: video
        (B, T, h, w), audio (B, F, T).  Zeros for a window that lacks the modality.
    """
    batch = batch.to(next(model.parameters()).device)
    branches, column = config.head_of_column(head)
    names = explained_modalities(config, head)
    inputs = augment(batch, random=False)
    places, features, is_last = {}, {}, {}
    for name, encoder in model.encoders.items():
        rows = batch.present[name].nonzero()[:, 0]
        blank = inputs[name].new_zeros(len(batch.index), model.num_features[name])
        features[name] = blank
        if name in names and len(rows):
            stage, place = _positions(encoder, inputs[name][rows], min_positions)
            places[name], is_last[name] = place.requires_grad_(), stage == 3
            with torch.enable_grad():
                features[name] = blank.index_put((rows,), _finish(encoder, stage, places[name]).to(blank.dtype))
    maps = {}
    with torch.enable_grad():
        logits = model.logits(model.join(features, batch.present)[0], only=[column])
        chosen = clusters.to(batch.index.device)[:, None]
        score = sum(score_of(logits[branch][0], chosen).sum() for branch in branches)
        assert isinstance(score, Tensor)
        gradients = torch.autograd.grad(score, list(places.values())) if places else ()
    for (name, place), gradient in zip(places.items(), gradients, strict=True):
        found = (place.detach() * gradient).sum(1).float().cpu()
        found = found if is_last[name] else _smooth(found)
        maps[name] = found.new_zeros(len(batch.index), *found.shape[1:])
        maps[name][batch.present[name].cpu()] = found
    return maps


def score_of(logits: Tensor, clusters: Tensor) -> Tensor:
    """What is explained: (B, K) logits and (B, 1) clusters -> (B,) the cluster's logit minus the mean of all."""
    return logits.gather(1, clusters)[:, 0] - logits.mean(1)


def _smooth(found: Tensor) -> Tensor:
    """Weight neighbours 1 2 1 along each axis of (B, ...).

    The stages behind skip every other position, and only those that they keep get gradient through their shortcuts.
    """
    for axis in range(1, found.ndim):
        first, last = (found.narrow(axis, at, 1) for at in (0, found.shape[axis] - 1))
        length = found.shape[axis]
        before = torch.cat([first, found.narrow(axis, 0, length - 1)], axis)
        after = torch.cat([found.narrow(axis, 1, length - 1), last], axis)
        found = (before + 2 * found + after) / 4
    return found


@torch.no_grad()
def _positions(encoder: nn.Module, inputs: Tensor, least: int) -> tuple[int, Tensor]:
    """The number of the deepest stage that has positions enough, and its output (B, C, [T,] ., .)."""
    outputs: list[Tensor] = []
    stages = _stages(encoder)
    hooks = [stage.register_forward_hook(lambda _, __, output: outputs.append(output)) for stage in stages]
    try:
        encoder(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    enough = [number for number, output in enumerate(outputs) if min(output.shape[-2:]) >= least]
    chosen = enough[-1] if enough else 0
    return chosen, outputs[chosen].detach().clone()


def _finish(encoder: nn.Module, stage: int, place: Tensor) -> Tensor:
    """From the output of a stage to the features (B, D)."""
    for later in _stages(encoder)[stage + 1 :]:
        place = later(place)
    return place.flatten(2).mean(2)


def _stages(encoder: nn.Module) -> list[nn.Module]:
    return [encoder.get_submodule(f"layer{number}") for number in (1, 2, 3, 4)]


def assemble(
    clip_id: str,
    cluster: int,
    duration_s: float,
    clip_s: float,
    frame: tuple[int, int],
    maps: Sequence[tuple[Place, np.ndarray | None]],
) -> Evidence:
    """Put the maps of a clip's windows together.

    Args:
        clip_id: of the clip.
        cluster: that was explained.
        duration_s: of the recording.
        clip_s: length of a window.
        frame: height and width of the picture, in any unit.
        maps: of every window that plan_windows named, in its order: (T, h, w) of the picture, (F, T) of the sound;
            None for a window that lacks it.
    """
    times_s = thumbnail_times(duration_s)
    seen, heard = ([(p.start_s, found) for p, found in maps if p.modality == name] for name in ("video", "audio"))
    pictures, sound = _pictures(seen, times_s, clip_s, frame), _sound(heard, duration_s, clip_s)
    levels = [_levels(found) for found in (pictures, sound)]
    return Evidence(clip_id, cluster, 0.0, times_s, levels[0][0], levels[1][0], levels[0][1], levels[1][1])


_Maps = list[tuple[float, np.ndarray | None]]
"""Start of a window, and its map."""


def _pictures(maps: _Maps, times_s: np.ndarray, clip_s: float, frame: tuple[int, int]) -> np.ndarray | None:
    """(4, h, w): of each window the position in time next to the picture's, on the square in the frame's middle."""
    if all(found is None for _, found in maps):
        return None
    ratio = max(frame) / max(1, min(frame))
    side = max(2, min(SHORT_SIDE, round(LONGEST_SIDE / ratio)))
    height, width = (min(LONGEST_SIDE, round(side * length / max(1, min(frame)))) for length in frame)
    canvas = np.zeros((NUM_FRAMES, height, width), np.float32)
    top, left = (height - side) // 2, (width - side) // 2
    for number, ((start_s, found), time_s) in enumerate(zip(maps, times_s, strict=True)):
        if found is not None:
            nearest = min(max(int((time_s - start_s) / clip_s * len(found)), 0), len(found) - 1)
            square = _resize(found[nearest], side, side) * found[0].size
            canvas[number, top : top + side, left : left + side] = square
    return canvas


def _sound(maps: _Maps, duration_s: float, clip_s: float) -> np.ndarray | None:
    """(bands, columns): each column the mean of the windows that it lies in."""
    if all(found is None for _, found in maps):
        return None
    num_columns = min(MOST_COLUMNS, max(1, round(COLUMNS_PER_WINDOW * duration_s / clip_s)))
    at_s = (np.arange(num_columns) + 0.5) * duration_s / num_columns
    total, count = np.zeros((BANDS, num_columns), np.float32), np.zeros(num_columns, np.float32)
    for start_s, found in maps:
        inside = (at_s >= start_s - 1e-6) & (at_s < start_s + clip_s + 1e-6)
        count[inside] += 1
        if found is not None:
            fine = _resize(found, BANDS, COLUMNS_PER_WINDOW) * found.size
            column = ((at_s[inside] - start_s) / clip_s * COLUMNS_PER_WINDOW).astype(int)
            total[:, inside] += fine[:, np.clip(column, 0, COLUMNS_PER_WINDOW - 1)]
    return total / np.maximum(count, 1)


def _resize(found: np.ndarray, height: int, width: int) -> np.ndarray:
    """The positive part of a map, bilinear."""
    positive = torch.from_numpy(np.ascontiguousarray(found)).clamp(min=0)[None, None]
    return F.interpolate(positive, (height, width), mode="bilinear", align_corners=False)[0, 0].numpy()


def _levels(found: np.ndarray | None) -> tuple[np.ndarray | None, float | None]:
    """The positive part as bytes, and what 255 stands for."""
    if found is None:
        return None, None
    peak = float(found.max())
    return np.rint(found * (255 / peak if peak > 0 else 0.0)).astype(np.uint8), peak


# ---- files ----


def evidence_path(run_dir: Path, split: str, head: int) -> Path:
    """RUN/evidence/SPLIT-hH.parquet."""
    return RunFolder(run_dir).evidence(split, head)


def read_evidence(path: Path) -> Iterator[Evidence]:
    """Read a file one row group at a time."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(EvidenceWriter.ROWS):
            for row in batch.to_pylist():
                yield _from_row(row)


def read_faded(path: Path) -> Iterator[Evidence]:
    """Read a file like read_evidence, but with evidence that is weak for its cluster looking weak.

    255 is then not each clip's most, but the middle one of the peaks of its cluster's clips, in picture and sound
    apart; what is stronger than that is shown as it is.  Clusters are not compared: evidence in one small place has a
    higher peak than evidence all over the picture.
    """
    peaks = pq.read_table(path, columns=["cluster", "video_peak", "audio_peak"]).to_pydict()
    clusters = np.array(peaks["cluster"])

    def levels(column: str) -> dict[int, float]:
        found = np.array(peaks[column], float)  # None becomes NaN
        there = np.flatnonzero(~np.isnan(found))
        there = there[np.argsort(clusters[there], kind="stable")]
        numbers, begins = np.unique(clusters[there], return_index=True)
        groups = np.split(found[there], begins[1:])
        return {int(number): float(np.median(group)) for number, group in zip(numbers, groups, strict=False)}

    def fade(values: np.ndarray | None, peak: float | None, level: float) -> np.ndarray | None:
        if values is None or peak is None or peak >= level:
            return values
        return np.rint(values * (peak / level)).astype(np.uint8)

    video, audio = levels("video_peak"), levels("audio_peak")
    for found in read_evidence(path):
        yield replace(
            found,
            video=fade(found.video, found.video_peak, video.get(found.cluster, 0.0)),
            audio=fade(found.audio, found.audio_peak, audio.get(found.cluster, 0.0)),
        )


class EvidenceWriter:
    """Adds evidence to a file, which appears whole or not at all.

    What has been added survives a kill: every ROWS clips become a part beside the file, in the folder .NAME.parts, and
    the parts become the file when the block ends without an exception.  Evidence of an earlier state of the run
    (another key) is dropped; a clip that is added again replaces its row.

    Args:
        path: the file.
        key: names what the evidence was computed from, such as the run's checkpoint.
    """

    ROWS = 64

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.folder = path, path.with_name(f".{path.name}.parts")
        self.key, self.schema = key, SCHEMA.with_metadata({"selavi_key": key})
        self.sources = [source for source in self._sources() if self._is_current(source)]
        self.known: dict[str, int] = {}
        """The cluster of each clip that is there."""
        for source in self.sources:
            rows = pq.read_table(source, columns=["id", "cluster"]).to_pydict()
            self.known.update(zip(rows["id"], rows["cluster"], strict=True))
        self._pending: list[Evidence] = []

    def add(self, evidence: Evidence) -> None:
        self._pending.append(evidence)
        self.known[evidence.id] = evidence.cluster
        if len(self._pending) == self.ROWS:
            self._flush()

    def __enter__(self) -> "EvidenceWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._flush()
        if kind is None:
            self._merge()

    def _sources(self) -> list[Path]:
        """The file, then the parts from the oldest to the newest."""
        return [*([self.path] if self.path.exists() else []), *sorted(self.folder.glob("*.parquet"))]

    def _is_current(self, source: Path) -> bool:
        found = pq.read_schema(source)
        return found.names == self.schema.names and (found.metadata or {}).get(b"selavi_key") == self.key.encode()

    def _flush(self) -> None:
        if not self._pending:
            return
        numbers = [int(part.stem) for part in self.folder.glob("*.parquet")]
        part = self.folder / f"{max(numbers, default=-1) + 1:06d}.parquet"
        with write_atomically(part) as temporary:
            pq.write_table(self._table([_to_row(evidence) for evidence in self._pending]), temporary)
        self.sources.append(part)
        self._pending = []

    def _merge(self) -> None:
        if self.sources != [self.path]:
            newest = {
                clip_id: number
                for number, source in enumerate(self.sources)
                for clip_id in pq.read_table(source, columns=["id"])["id"].to_pylist()
            }
            with write_atomically(self.path) as temporary, pq.ParquetWriter(temporary, self.schema) as writer:
                for number, source in enumerate(self.sources):
                    with pq.ParquetFile(source) as file:
                        for batch in file.iter_batches(self.ROWS):
                            kept = [row for row in batch.to_pylist() if newest[row["id"]] == number]
                            if kept:
                                writer.write_table(self._table(kept))
        for part in self.folder.glob("*.parquet"):
            part.unlink()
        if self.folder.exists():
            self.folder.rmdir()

    def _table(self, rows: list[dict[str, object]]) -> pa.Table:
        return pa.Table.from_pylist(rows, schema=self.schema)


def _to_row(evidence: Evidence) -> dict[str, object]:
    row: dict[str, object] = {name: getattr(evidence, name) for name in SCHEMA.names if hasattr(evidence, name)}
    row["times_s"] = evidence.times_s.tolist()
    for name, found in (("video", evidence.video), ("audio", evidence.audio)):
        row[name] = None if found is None else found.tobytes()
        row[f"{name}_shape"] = None if found is None else list(found.shape)
    return row


def _from_row(row: Mapping[str, object]) -> Evidence:
    fields = {name: value for name, value in row.items() if not name.endswith("_shape")}
    fields["times_s"] = np.array(row["times_s"])
    for name in ("video", "audio"):
        content, shape = row[name], row[f"{name}_shape"]
        if isinstance(content, bytes) and isinstance(shape, list):
            fields[name] = np.frombuffer(content, np.uint8).reshape(shape)
    return Evidence(**fields)  # type: ignore[arg-type]
