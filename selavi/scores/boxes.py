"""How well maps of where something lies agree with boxes and masks that people drew: numbers in, numbers out.

Axes: h, w height and width of a picture; n pictures.  A map is (h, w), the larger the more likely; a box is (x1, y1,
x2, y2) as shares of width and height, x to the right and y down.  A truth is (h, w): what share of those who looked
marked a pixel, in [0, 1], so that a mask of one person is 0 and 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

HALF = 0.5
"""Share of the pixels that the literature's relative threshold always keeps, the overlap that counts as success, and
the share of a map's maximum that what it points at exceeds."""
WHOLE = "whole picture"
NEIGHBOURHOOD = 9
"""Pixels along each side of the squares over which the prior of colours is averaged."""
STEPS = np.linspace(0, 1, 21)
"""Overlaps at which the curve of successes is read for its area."""


def clip_box(box: Sequence[float]) -> tuple[float, float, float, float] | None:
    """The part of a box that lies in the picture; None where nothing does, or a number is not finite.

    Args:
        box: (x1, y1, x2, y2), as shares.
    """
    if not np.isfinite(box).all():
        return None
    left, top, right, bottom = (min(max(float(edge), 0.0), 1.0) for edge in box)
    return (left, top, right, bottom) if left < right and top < bottom else None


def box_mask(boxes: Sequence[Sequence[float]], height: int, width: int) -> np.ndarray:
    """(h, w) bool: the pixels whose middle lies in one of the boxes.

    Args:
        boxes: (x1, y1, x2, y2) each, as shares.
        height: h.
        width: w.
    """
    y, x = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    mask = np.zeros((height, width), bool)
    for left, top, right, bottom in boxes:
        mask |= ((y >= top) & (y < bottom))[:, None] & ((x >= left) & (x < right))
    return mask


def consensus(masks: Sequence[np.ndarray], needed: int = 2) -> np.ndarray:
    """(h, w) float64 in [0, 1]: how many of several people marked a pixel, over the number that makes it certain.

    min(1, sum / needed): Flickr-SoundNet's truth, where two of three suffice (Senocak et al., CVPR 2018, eq. 7).

    Raises:
        ValueError: there are no masks, or they differ in their shapes.
    """
    if not masks or any(mask.shape != masks[0].shape for mask in masks):
        raise ValueError(f"expected masks (h, w) of one shape, got {[mask.shape for mask in masks]}")
    share: np.ndarray = np.minimum(np.sum([mask != 0 for mask in masks], 0) / needed, 1.0)
    return share


@dataclass(frozen=True)
class PointedBox:
    """What a map points at."""

    box: tuple[float, float, float, float]
    """(x1, y1, x2, y2), as shares."""
    share: float
    """Share of the map's positive values that lies in the box, in (0, 1]."""


def box_of_map(values: np.ndarray, least: float = HALF) -> PointedBox | None:
    """The smallest box around the largest connected part of a map above a share of its maximum.

    Cells are connected by their sides.  Of parts of equal size the one with the larger sum counts.

    Args:
        values: (h, w) map; what is not positive counts as 0.
        least: share of the maximum, in [0, 1).

    Returns:
        None where nothing is positive.

    Raises:
        ValueError: values that are not finite, or not (h, w).
    """
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError(f"expected a finite map (h, w), got {values.shape} with {np.isfinite(values).sum()} finite")
    positive = np.maximum(values, 0).astype(np.float64)
    if not positive.any():
        return None
    parts, num_parts = ndimage.label(positive > least * positive.max())
    numbers = np.arange(1, num_parts + 1)
    sizes = np.bincount(parts.ravel(), minlength=num_parts + 1)[1:]
    largest = int(numbers[np.lexsort((ndimage.sum_labels(positive, parts, numbers), sizes))[-1]])
    rows, columns = ndimage.find_objects(parts, largest)[largest - 1]
    height, width = values.shape
    box = (columns.start / width, rows.start / height, columns.stop / width, rows.stop / height)
    return PointedBox(box, float(positive[rows, columns].sum() / positive.sum()))


def hottest(values: np.ndarray, count: int) -> np.ndarray:
    """(h, w) bool: exactly so many pixels, the largest; of equal ones the first, row by row.

    Args:
        values: (h, w) map.
        count: 0 to h x w.
    """
    order = np.argsort(-values.ravel(), kind="stable")
    mask = np.zeros(values.size, bool)
    mask[order[:count]] = True
    return mask.reshape(values.shape)


def relative_mask(values: np.ndarray, share: float = HALF) -> np.ndarray:
    """(h, w) bool: a fixed share of the picture, the hottest of it (the literature's half)."""
    return hottest(values, round(share * values.size))


def adaptive_mask(values: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(h, w) bool: as many of the hottest pixels as the truth has, so that size is given and place is judged."""
    return hottest(values, int((truth > 0).sum()))


def universal_mask(values: np.ndarray, threshold: float) -> np.ndarray:
    """(h, w) bool: what is above one threshold for all pictures, which may be nothing."""
    return values > threshold


def universal_threshold(maps: Sequence[np.ndarray], share: float) -> float:
    """The threshold above which a share of all pixels of several maps (h, w) lies, at most.

    Raises:
        ValueError: there are no maps, or the share is not in [0, 1].
    """
    if not maps or not 0 <= share <= 1:
        raise ValueError(f"expected maps, and a share in [0, 1]; got {len(maps)} maps and {share}")
    return float(np.quantile(np.concatenate([values.ravel() for values in maps]), 1 - share, method="higher"))


def iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Pixels in both over pixels in either, of two masks (h, w); nan where both are empty."""
    predicted, truth = predicted != 0, truth != 0
    either = int((predicted | truth).sum())
    return int((predicted & truth).sum()) / either if either else float("nan")


def consensus_iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """IoU with a truth that people did not agree about (cIoU, Senocak et al., CVPR 2018, eq. 8).

    sum of g over the predicted pixels / (sum of g + predicted pixels where g is 0), g the truth in [0, 1].  Of a truth
    of 0 and 1 it is the IoU.

    Returns:
        In [0, 1]; nan where nothing is predicted and nothing is true.
    """
    predicted = predicted != 0
    total = float(truth.sum()) + int((predicted & (truth == 0)).sum())
    return float(truth[predicted].sum()) / total if total else float("nan")


def success(overlaps: np.ndarray, least: float = HALF) -> float:
    """Share of n overlaps that are at least so large; those that are nan are left out, and nan where all are."""
    finite = overlaps[~np.isnan(overlaps)]
    return float((finite >= least).mean()) if len(finite) else float("nan")


def area_under_successes(overlaps: np.ndarray) -> float:
    """Area under success at 0, 0.05, ..., 1, by trapezoids, in [0, 1]; nan where all of n overlaps are."""
    return float(np.trapezoid([success(overlaps, step) for step in STEPS], STEPS))


def pointing(values: np.ndarray, truth: np.ndarray) -> float:
    """Share of the places with the largest value of a map (h, w), mostly one, where the truth is above 0.

    A map that says the same everywhere has what chance gives: the truth's share of the picture.
    """
    return float((truth[values == values.max()] > 0).mean())


def average_precision(scores: np.ndarray, is_true: np.ndarray, num_true: int | None = None) -> float:
    """Mean of the precision at each true one, from the largest score on; nan where none is true.

    Equal scores count at once: each true one among them has the precision with all of them taken.

    Args:
        scores: (n,) finite.
        is_true: (n,) bool.
        num_true: true ones in all, where some are missed at any score; each of them has a precision of 0.
    """
    num_true, num_taken, num_hit = _ranking(scores, is_true, num_true)
    gained = np.diff(num_hit, prepend=0)
    return float((num_hit / num_taken * gained).sum() / num_true) if num_true else float("nan")


def largest_f1(scores: np.ndarray, is_true: np.ndarray, num_true: int | None = None) -> float:
    """The largest F1 that any threshold on the scores gives; nan where none is true.

    Args:
        scores: (n,) finite.
        is_true: (n,) bool.
        num_true: true ones in all, where some are missed at any score.
    """
    num_true, num_taken, num_hit = _ranking(scores, is_true, num_true)
    return float((2 * num_hit / (num_taken + num_true)).max()) if num_true else float("nan")


def pixel_average_precision(values: np.ndarray, truth: np.ndarray) -> float:
    """Average precision of the pixels of a map (h, w), of which those are true where the truth is above 0."""
    return average_precision(values.ravel(), truth.ravel() > 0)


def _ranking(scores: np.ndarray, is_true: np.ndarray, num_true: int | None) -> tuple[int, np.ndarray, np.ndarray]:
    """True ones in all; and at each threshold, from the largest score on, how many are taken and how many of it true.

    Raises:
        ValueError: shapes that differ.
    """
    if scores.shape != is_true.shape or scores.ndim != 1:
        raise ValueError(f"expected scores (n,) and as many truths, got {scores.shape} and {is_true.shape}")
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], is_true[order].cumsum()
    lasts = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)])  # of each run of equal scores
    return int(is_true.sum()) if num_true is None else num_true, lasts + 1, hits[lasts]


@dataclass(frozen=True)
class Localisation:
    """Figures of n pictures whose truth is not empty, each in [0, 1]; nan where there is none."""

    num_pictures: int
    mean_iou: float
    """Mean of the consensus IoU."""
    success: float
    """Share of pictures whose consensus IoU is at least a half."""
    area: float
    """Area under the successes."""
    pointing: float
    """Share of pictures in which the largest value of the map lies on the truth."""
    pixel_precision: float
    """Mean over pictures of the average precision of pixels."""


def score_maps(maps: Sequence[np.ndarray], truths: Sequence[np.ndarray], threshold: float | str) -> Localisation:
    """Score maps against truths.

    Args:
        maps: (h, w) each, finite.
        truths: (h, w) each, in [0, 1].
        threshold: what is predicted: relative, the hotter half; adaptive, as many pixels as the truth has; or a number,
            the universal threshold.

    Raises:
        ValueError: shapes that differ, another word, or a map that is not finite.
    """
    _check(maps, truths)
    kept = [(values, truth) for values, truth in zip(maps, truths, strict=True) if (truth > 0).any()]
    overlaps = np.array([consensus_iou(_mask(values, truth, threshold), truth) for values, truth in kept])
    return Localisation(
        len(kept),
        _mean(overlaps),
        success(overlaps),
        area_under_successes(overlaps) if kept else float("nan"),
        _mean([pointing(values, truth) for values, truth in kept]),
        _mean([pixel_average_precision(values, truth) for values, truth in kept]),
    )


@dataclass(frozen=True)
class Sounding:
    """Whether maps know when nothing sounds: their confidences with the clip's own sound and with another one."""

    average_precision: float
    """A picture with its own sound counts where its map overlaps the truth by a half; a silent one never does."""
    largest_f1: float
    own_share: float
    """Share of the picture above the universal threshold, with the clips' own sound."""
    other_share: float
    """The same with silence, noise or another clip's sound; a map that hears has none."""


def score_sounding(
    maps: Sequence[np.ndarray], truths: Sequence[np.ndarray], others: Sequence[np.ndarray], threshold: float
) -> Sounding:
    """Score maps of pictures with their own sound against maps of pictures with silence, noise or another clip's sound.

    A map's confidence is the mean of the hotter quarter of its values (as Mo and Morgado, NeurIPS 2022, read maps of
    silent pictures).  Recall is over the pictures whose truth is not empty: one that is missed counts as never found.

    Args:
        maps: (h, w) each, with the own sound.
        truths: (h, w) each, of these.
        others: (h, w) each, with a sound that has no source in the picture.
        threshold: the universal one.

    Raises:
        ValueError: shapes that differ, or a map that is not finite.
    """
    _check(maps, truths)
    _check(others, others)
    pairs = list(zip(maps, truths, strict=True))
    is_found = [consensus_iou(universal_mask(values, threshold), truth) >= HALF for values, truth in pairs]
    confidences = np.array([confidence(values) for values in (*maps, *others)])
    is_true = np.array([*is_found, *(False for _ in others)], bool)
    num_sources = sum(bool((truth > 0).any()) for truth in truths)
    return Sounding(
        average_precision(confidences, is_true, num_sources),
        largest_f1(confidences, is_true, num_sources),
        _mean([float(universal_mask(values, threshold).mean()) for values in maps]),
        _mean([float(universal_mask(values, threshold).mean()) for values in others]),
    )


def confidence(values: np.ndarray) -> float:
    """Mean of the hotter quarter of a map (h, w), of one pixel at least."""
    return float(np.sort(values.ravel())[-max(1, round(values.size / 4)) :].mean())


def whole_picture(height: int, width: int) -> np.ndarray:
    """(h, w) float64: the prior that says the same everywhere."""
    return np.ones((height, width))


def centre_disc(height: int, width: int) -> np.ndarray:
    """(h, w) float64: the prior that the middle is likeliest: one less the distance to it over that of a corner.

    Its hotter half is an ellipse around the middle: distances are shares of height and width.
    """
    y, x = (np.arange(height) + 0.5) / height - 0.5, (np.arange(width) + 0.5) / width - 0.5
    cone: np.ndarray = 1 - np.hypot(y[:, None], x) / np.hypot(0.5, 0.5)
    return cone


def another_clips(maps: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The prior that looks at the wrong clip: each clip gets the map of the one before, the first that of the last.

    Raises:
        ValueError: there are fewer than two, or they differ in their shapes.
    """
    if len(maps) < 2 or any(values.shape != maps[0].shape for values in maps):
        raise ValueError(f"expected two maps or more of one shape, got {[values.shape for values in maps]}")
    return [maps[-1], *maps[:-1]]


def frame_difference(frames: np.ndarray) -> np.ndarray:
    """(h, w) float64: the prior that sounds come from what moves: mean change from one frame to the next.

    Args:
        frames: (T, h, w, channels), two at least.

    Raises:
        ValueError: there are fewer.
    """
    if frames.ndim != 4 or len(frames) < 2:
        raise ValueError(f"expected two frames (T, h, w, channels) or more, got {frames.shape}")
    change: np.ndarray = np.abs(np.diff(frames.astype(np.float64), axis=0)).mean((0, 3))
    return change


def colour_contrast(picture: np.ndarray) -> np.ndarray:
    """(h, w) float64: the prior that things differ from their background in colour.

    The distance of each pixel's colour from the picture's median colour, mean over a square around it (NEIGHBOURHOOD).

    Args:
        picture: (h, w, channels).

    Raises:
        ValueError: it has other axes.
    """
    if picture.ndim != 3:
        raise ValueError(f"expected a picture (h, w, channels), got {picture.shape}")
    values = picture.astype(np.float64)
    distances = np.linalg.norm(values - np.median(values, (0, 1)), axis=2)
    # At the edges of the picture the square has fewer pixels.
    sums, counts = (
        ndimage.uniform_filter(one, NEIGHBOURHOOD, mode="constant") for one in (distances, np.ones_like(distances))
    )
    contrast: np.ndarray = sums / counts
    return contrast


def beside_priors(
    maps: Sequence[np.ndarray],
    truths: Sequence[np.ndarray],
    threshold: str,
    frames: Sequence[np.ndarray] | None = None,
    pictures: Sequence[np.ndarray] | None = None,
    share: float = HALF,
) -> dict[str, Localisation]:
    """Figures of maps, and of what anybody could say without looking or listening, by name.

    The whole picture predicts all of it, whatever the threshold.

    Args:
        maps: (h, w) each, all of one shape.
        truths: (h, w) each.
        threshold: relative or adaptive, as in score_maps; or universal, one for all pictures of a row, above which at
            most `share` of all pixels lies.
        frames: (T, h, w, channels) each, for the prior of what moves; None: without it.
        pictures: (h, w, channels) each, for the prior of what differs in colour; None: without it.
        share: of the pixels, for universal.

    Raises:
        ValueError: as score_maps, another_clips, frame_difference and colour_contrast.
    """
    height, width = maps[0].shape if len(maps) else (0, 0)
    rows = {
        "map": list(maps),
        "another clip's map": another_clips(maps),
        WHOLE: [whole_picture(height, width)] * len(maps),
        "centre disc": [centre_disc(height, width)] * len(maps),
    }
    if frames is not None:
        rows["frame difference"] = [frame_difference(of_clip) for of_clip in frames]
    if pictures is not None:
        rows["colour contrast"] = [colour_contrast(picture) for picture in pictures]
    figures = {}
    for name, own in rows.items():
        of_row: float | str = universal_threshold(own, share) if threshold == "universal" else threshold
        figures[name] = score_maps(own, truths, 0.0 if name == WHOLE else of_row)
    return figures


def _mask(values: np.ndarray, truth: np.ndarray, threshold: float | str) -> np.ndarray:
    if threshold == "relative":
        return relative_mask(values)
    if threshold == "adaptive":
        return adaptive_mask(values, truth)
    if isinstance(threshold, str):
        raise ValueError(f"the threshold is relative, adaptive or a number, got {threshold!r}")
    return universal_mask(values, threshold)


def _check(maps: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> None:
    if len(maps) != len(truths):
        raise ValueError(f"expected a truth for each map, got {len(maps)} maps and {len(truths)} truths")
    for number, (values, truth) in enumerate(zip(maps, truths, strict=True)):
        if values.ndim != 2 or values.shape != truth.shape:
            raise ValueError(f"expected map and truth (h, w), got {values.shape} and {truth.shape} of picture {number}")
        if not np.isfinite(values).all():
            raise ValueError(f"the map of picture {number} has values that are not finite")


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
