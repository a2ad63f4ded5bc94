"""Why this cluster: where in the frame and when in the sound the evidence for a clip's cluster lies.

The evidence is HiResCAM's (Draelos and Carin, arXiv 2011.08891): an activation map of the encoder times the gradient of
the score at each position, summed over the channels.  At the last map under a linear head it is the class activation
map of Zhou et al. (CVPR 2016), and its sum over the positions is the score without the bias.  The score is the
cluster's logit minus the mean of all clusters' logits: what raises them all alike changes no probability.

Small inputs leave few positions in the last map (3 x 3 for pictures of 48 pixels), so the deepest map is taken that
has MIN_POSITIONS along each side (docs/results/evidence.md: what was measured with each).

Axes: B windows of a batch, K clusters, F mel bands, T time.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from selavi.augment import Augment
from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.encoders.encoder import Encoder
from selavi.errors import UsageError
from selavi.modalities import kind_of
from selavi.model import SelaviModel
from selavi.results.evidence import Evidence, EvidenceMap

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
"""Windows of the sound; those of longer recordings lie apart."""


class Place(NamedTuple):
    """A window to look at, and the modality whose evidence it is for."""

    modality: str
    start_s: float


def plan_windows(duration_s: float, clip_s: float, modalities: Sequence[str]) -> list[Place]:
    """Where to look in a recording.

    For the picture a window around each time of the thumbnail, as far as the recording goes; for the sound as few
    windows as cover the recording, evenly spaced, at most MOST_WINDOWS.
    """
    return [Place(name, start_s) for name in modalities for start_s in _LAYOUTS[name].starts_s(duration_s, clip_s)]


def thumbnail_times(duration_s: float) -> np.ndarray:
    """(4,) times of a thumbnail's pictures: (i + 0.5) / 4 of the recording."""
    return (np.arange(NUM_FRAMES) + 0.5) * duration_s / NUM_FRAMES


def window_around(time_s: float, duration_s: float, clip_s: float) -> tuple[float, float]:
    """Start of the window around a moment of a recording, as far as it goes; and which share of it has passed then."""
    start_s = min(max(time_s - clip_s / 2, 0.0), max(0.0, duration_s - clip_s))
    return start_s, min(max((time_s - start_s) / clip_s, 0.0), 1.0)


def explained_modalities(config: Config, head: int) -> list[str]:
    """The modalities that a head of the label bank reads and whose evidence can be shown.

    Raises:
        UsageError: there is none.
    """
    fused = config.is_fused
    names = config.kinds if fused else config.head_of_column(head)[0]
    shown = [name for name in names if name in MAPPED]
    if not shown:
        raise UsageError(f"head {head} reads {', '.join(names)}; evidence is shown for {' and '.join(MAPPED)} only")
    return shown


def find_evidence(
    model: SelaviModel,
    augment: Augment,
    batch: ClipBatch,
    clusters: Tensor,
    head: int,
    config: Config,
    *,
    min_positions: int = MIN_POSITIONS,
    without: Collection[str] = (),
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
        without: modalities that get no map.

    Returns:
        The part of each position in the score, float32 on the CPU, of each other modality that the head reads: video
        (B, T, h, w), audio (B, F, T).  Zeros for a window that lacks the modality.
    """
    batch = batch.to(next(model.parameters()).device)
    branches, column = config.head_of_column(head)
    names = [name for name in explained_modalities(config, head) if name not in without]
    inputs = augment(batch, random=False)
    places, features, is_last = {}, {}, {}
    for name, encoder in model.encoders.items():
        rows = batch.present[name].nonzero()[:, 0]
        blank = inputs[name].new_zeros(len(batch.index), model.num_features[name])
        features[name] = blank
        if name in names and len(rows):
            stages = _stages(name, encoder)
            stage, place = _positions(encoder, stages, inputs[name][rows], min_positions)
            places[name], is_last[name] = place.requires_grad_(), stage == len(stages) - 1
            with torch.enable_grad():
                features[name] = blank.index_put((rows,), _finish(stages[stage + 1 :], places[name]).to(blank.dtype))
    maps = {}
    with torch.enable_grad():
        logits = model.logits(model.join(features, batch.present)[0], only=[column])
        chosen = clusters.to(batch.index.device)[:, None]
        score = sum(score_of(logits[branch][0], chosen).sum() for branch in branches)
        assert isinstance(score, Tensor)
        gradients = torch.autograd.grad(score, list(places.values())) if places else ()
    for (name, place), gradient in zip(places.items(), gradients, strict=True):
        parts = (place.detach() * gradient).sum(1).float().cpu()
        parts = parts if is_last[name] else _smooth(parts)
        maps[name] = parts.new_zeros(len(batch.index), *parts.shape[1:])
        maps[name][batch.present[name].cpu()] = parts
    return maps


def score_of(logits: Tensor, clusters: Tensor) -> Tensor:
    """What is explained: (B, K) logits and (B, 1) clusters -> (B,) the cluster's logit minus the mean of all."""
    return logits.gather(1, clusters)[:, 0] - logits.mean(1)


def _smooth(maps: Tensor) -> Tensor:
    """Weight neighbours 1 2 1 along each axis of (B, ...).

    The stages behind skip every other position, and only those that they keep get gradient through their shortcuts.
    """
    for axis in range(1, maps.ndim):
        first, last = (maps.narrow(axis, at, 1) for at in (0, maps.shape[axis] - 1))
        length = maps.shape[axis]
        before = torch.cat([first, maps.narrow(axis, 0, length - 1)], axis)
        after = torch.cat([maps.narrow(axis, 1, length - 1), last], axis)
        maps = (before + 2 * maps + after) / 4
    return maps


def _outputs(encoder: nn.Module, stages: Sequence[nn.Module], inputs: Tensor) -> list[Tensor]:
    """What each stage gives."""
    outputs: list[Tensor] = []
    hooks = [stage.register_forward_hook(lambda _, __, output: outputs.append(output)) for stage in stages]
    try:
        encoder(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return outputs


@torch.no_grad()
def _positions(encoder: nn.Module, stages: Sequence[nn.Module], inputs: Tensor, least: int) -> tuple[int, Tensor]:
    """The number of the deepest stage that has positions enough, and its output (B, C, [T,] ., .)."""
    outputs = _outputs(encoder, stages, inputs)
    enough = [number for number, output in enumerate(outputs) if min(output.shape[-2:]) >= least]
    chosen = enough[-1] if enough else 0
    return chosen, outputs[chosen].detach().clone()


def maps_of_stages(name: str, encoder: nn.Module, inputs: Tensor, least: int) -> dict[str, Tensor]:
    """(B, C, [T,] ., .) a stage that has at least so many positions along each side, or else of the first.

    Raises:
        UsageError: the encoder names no stages.
    """
    stages = _stages(name, encoder)
    assert isinstance(encoder, Encoder)
    outputs = dict(zip(encoder.stages, _outputs(encoder, stages, inputs), strict=True))
    enough = {stage: output for stage, output in outputs.items() if min(output.shape[-2:]) >= least}
    return enough or {encoder.stages[0]: outputs[encoder.stages[0]]}


def map_of_stage(name: str, encoder: nn.Module, inputs: Tensor, stage: int = -1) -> Tensor:
    """(B, C, [T,] ., .): what a stage of a modality's encoder gives, the last one by default.

    Raises:
        UsageError: the encoder names no stages.
    """
    return _positions(encoder, [_stages(name, encoder)[stage]], inputs, 0)[1]


def _finish(later: Sequence[nn.Module], place: Tensor) -> Tensor:
    """From the output of a stage through those behind it to the features (B, D)."""
    for stage in later:
        place = stage(place)
    return place.flatten(2).mean(2)


def _stages(name: str, encoder: nn.Module) -> list[nn.Module]:
    """The stages of an encoder whose maps show evidence; see selavi.encoders.encoder.Encoder.

    Raises:
        UsageError: the encoder names none.
    """
    stages = encoder.stages if isinstance(encoder, Encoder) else ()
    if not stages:
        raise UsageError(f"the encoder of {name} names no stages, so there is no map in which to show evidence")
    return [encoder.get_submodule(stage) for stage in stages]


def assemble(
    clip_id: str,
    cluster: int,
    duration_s: float,
    clip_s: float,
    frame: tuple[int, int],
    maps: Sequence[tuple[Place, np.ndarray | None]],
    seen: Mapping[str, Sequence[int]],
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
        seen: input_shape of each modality that has maps.
    """
    laid_out = {}
    for name, layout in _LAYOUTS.items():
        windows = [(place.start_s, values) for place, values in maps if place.modality == name]
        if any(values is not None for _, values in windows):
            laid_out[name] = _as_levels(layout.assemble(windows, seen[name], duration_s, clip_s, frame))
    return Evidence(clip_id, cluster, 0.0, thumbnail_times(duration_s), laid_out)


_Maps = list[tuple[float, np.ndarray | None]]
"""Start of a window, and its map."""


def _around_pictures(duration_s: float, clip_s: float) -> list[float]:
    """Starts of windows around the times of the thumbnail, as far as the recording goes."""
    return [window_around(time_s, duration_s, clip_s)[0] for time_s in thumbnail_times(duration_s).tolist()]


def _all_over(duration_s: float, clip_s: float) -> list[float]:
    """Starts of as few windows as cover the recording, evenly spaced."""
    room_s = max(0.0, duration_s - clip_s)
    count = min(max(1, math.ceil(duration_s / clip_s - 1e-6)), MOST_WINDOWS)
    return [room_s * i / max(1, count - 1) for i in range(count)]


def _pictures(maps: _Maps, seen: Sequence[int], duration_s: float, clip_s: float, frame: tuple[int, int]) -> np.ndarray:
    """(4, h, w): of each window the position in time next to the picture's, on the square in the frame's middle."""
    times_s = thumbnail_times(duration_s)
    ratio = max(frame) / max(1, min(frame))
    side = max(2, min(SHORT_SIDE, round(LONGEST_SIDE / ratio)))
    height, width = (min(LONGEST_SIDE, round(side * length / max(1, min(frame)))) for length in frame)
    canvas = np.zeros((NUM_FRAMES, height, width), np.float32)
    top, left = (height - side) // 2, (width - side) // 2
    for number, ((start_s, values), time_s) in enumerate(zip(maps, times_s, strict=True)):
        if values is not None:
            nearest = nearest_position((time_s - start_s) / clip_s, len(values), seen[0])
            square = resize_positive(values[nearest], seen[1:], side, side) * values[0].size
            canvas[number, top : top + side, left : left + side] = square
    return canvas


def _sound(maps: _Maps, seen: Sequence[int], duration_s: float, clip_s: float, frame: tuple[int, int]) -> np.ndarray:
    """(bands, columns): each column the mean of the windows that it lies in."""
    num_columns = min(MOST_COLUMNS, max(1, round(COLUMNS_PER_WINDOW * duration_s / clip_s)))
    at_s = (np.arange(num_columns) + 0.5) * duration_s / num_columns
    total, count = np.zeros((BANDS, num_columns), np.float32), np.zeros(num_columns, np.float32)
    for start_s, values in maps:
        inside = (at_s >= start_s - 1e-6) & (at_s < start_s + clip_s + 1e-6)
        count[inside] += 1
        if values is not None:
            fine = resize_positive(values, seen, BANDS, COLUMNS_PER_WINDOW) * values.size
            column = ((at_s[inside] - start_s) / clip_s * COLUMNS_PER_WINDOW).astype(int)
            total[:, inside] += fine[:, np.clip(column, 0, COLUMNS_PER_WINDOW - 1)]
    return total / np.maximum(count, 1)


def resize_positive(values: np.ndarray, seen: Sequence[int], height: int, width: int) -> np.ndarray:
    """(height, width) float32: the positive part of a map (h, w), bilinear; `seen` is as enlarge has it."""
    return enlarge(np.maximum(values, 0), seen, (height, width))


def enlarge(values: np.ndarray, seen: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """Bring maps to another size, linear along each axis, their positions where their filters are centred.

        the encoder's input   0 1 2 3 4 5 6 7 8 9 10 11     stride 4: kernels are odd and padded by half their width,
        positions             0       1       2             so position i is centred on pixel 4 i, not on 4 i + 1.5,
        not                     0       1        2          the middle of the four pixels that it would cover

    Args:
        values: (..., as many axes as `seen` has) maps.
        seen: length of each axis in the encoder's input (input_shape).
        size: of each axis in the result, which covers all of the input.

    Returns:
        (..., *size) float32.
    """
    resized = values.astype(np.float64)
    for axis, (full, fine) in enumerate(zip(seen, size, strict=True), -len(seen)):
        weights = _weights(values.shape[axis], full, fine)
        resized = np.moveaxis(np.moveaxis(resized, axis, -1) @ weights.T, -1, axis)
    return resized.astype(np.float32)


def nearest_position(share: float, count: int, full: int) -> int:
    """The position in time of a map, of `count`, whose filters are centred next to a moment of a window.

    Args:
        share: of the window that has passed, in [0, 1]; input i of `full` stands for [i, i + 1) / full.
        count: positions of the map.
        full: frames of the encoder's input.
    """
    at = (share * full - 0.5) / _stride(count, full)
    return min(max(math.floor(at + 0.5), 0), count - 1)


def _weights(count: int, full: int, fine: int) -> np.ndarray:
    """(fine, count): what each of `count` positions gives to places that divide `full` inputs evenly."""
    at = ((np.arange(fine) + 0.5) * full / fine - 0.5) / _stride(count, full)
    return np.stack([np.interp(at, np.arange(count), one) for one in np.eye(count)], 1)


def _stride(count: int, full: int) -> int:
    """Inputs from one position to the next: the encoders halve, so that count = ceil(full / 2^n)."""
    return 2 ** max(0, math.ceil(math.log2(full / count)))


def input_shape(config: Config, name: str) -> tuple[int, ...]:
    """What positions of a modality's maps lie on: (T, h, w) frames and pixels, (F, T') bands and columns."""
    blank = torch.from_numpy(kind_of(config, name).blank(config.seen_by(name)))
    return tuple(Augment(config).plain({name: blank[None]})[name].shape[2:])


def _as_levels(values: np.ndarray) -> EvidenceMap:
    """The positive part as bytes, and what 255 stands for."""
    peak = float(values.max())
    return EvidenceMap(np.rint(values * (255 / peak if peak > 0 else 0.0)).astype(np.uint8), peak)


class _Layout(NamedTuple):
    """How evidence of a modality is collected over a recording."""

    starts_s: Callable[[float, float], list[float]]
    """(duration, length of a window) -> starts of the windows to look at."""
    assemble: Callable[[_Maps, Sequence[int], float, float, tuple[int, int]], np.ndarray]
    """(maps of these windows, input_shape, duration, length of a window, frame) -> one map."""


_LAYOUTS = {"video": _Layout(_around_pictures, _pictures), "audio": _Layout(_all_over, _sound)}
MAPPED = tuple(_LAYOUTS)
"""Modalities whose evidence can be shown."""
PICTURED = MAPPED[0]
"""The one of them whose maps lie in pictures."""
