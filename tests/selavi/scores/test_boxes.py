"""Each score against its plain, slow definition, on random maps, boxes and masks; priors by formula."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from selavi.scores import boxes

SEEDS = st.integers(0, 10_000)


def drawn(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A map with ties and a truth of 0, 1/2 and 1, of one odd shape."""
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 9, 2))
    return rng.integers(0, 6, shape) / 5, rng.integers(0, 3, shape) / 2 * rng.integers(0, 2)


@given(SEEDS)
def test_a_mask_holds_the_pixels_whose_middle_lies_in_a_box(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 9, 2)
    several = rng.uniform(-0.2, 1.2, (2, 4))
    mask = boxes.box_mask(several, height, width)
    for row in range(height):
        for column in range(width):
            y, x = (row + 0.5) / height, (column + 0.5) / width
            assert mask[row, column] == any(x1 <= x < x2 and y1 <= y < y2 for x1, y1, x2, y2 in several)


@given(SEEDS)
def test_a_clipped_box_covers_the_same_pixels(seed: int) -> None:
    box = np.random.default_rng(seed).uniform(-1, 2, 4)
    clipped = boxes.clip_box(box)
    before = boxes.box_mask([box], 16, 16)
    if clipped is None:
        assert not before.any()
    else:
        assert min(clipped) >= 0 and max(clipped) <= 1
        assert np.array_equal(boxes.box_mask([clipped], 16, 16), before)


@pytest.mark.parametrize("box", [(0.2, 0.2, 0.2, 0.5), (1.1, 0, 2, 1), (0, 0, math.nan, 1), (0.5, 0.5, 0.1, 0.9)])
def test_a_box_without_area_is_none(box: tuple[float, ...]) -> None:
    assert boxes.clip_box(box) is None


def test_a_corrupt_edge_is_clipped() -> None:
    assert boxes.clip_box((-2.9e16, 0.25, 0.5, 1.25)) == (0.0, 0.25, 0.5, 1.0)


def parts_of(mask: np.ndarray) -> list[set[tuple[int, int]]]:
    """Connected parts, by walking from cell to cell."""
    left = {(int(row), int(column)) for row, column in np.argwhere(mask)}
    parts = []
    while left:
        part, edge = set(), [left.pop()]
        while edge:
            row, column = edge.pop()
            part.add((row, column))
            near = {(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)} & left
            left -= near
            edge += near
        parts.append(part)
    return parts


@given(SEEDS)
def test_a_map_points_at_its_largest_part_above_half_of_its_maximum(seed: int) -> None:
    values = drawn(seed)[0] - 0.2
    pointed = boxes.box_of_map(values)
    if values.max() <= 0:
        assert pointed is None
        return
    assert pointed is not None
    parts = parts_of(values > values.max() / 2)
    sizes = [(len(part), sum(values[cell] for cell in part)) for part in parts]
    height, width = values.shape
    around = []
    for part, size in zip(parts, sizes, strict=True):
        if size >= (max(sizes)[0], max(sizes)[1] - 1e-9):
            rows, columns = zip(*part, strict=True)
            left, top, right, bottom = min(columns), min(rows), max(columns) + 1, max(rows) + 1
            around.append((left / width, top / height, right / width, bottom / height))
    assert pointed.box in around
    inside = boxes.box_mask([pointed.box], height, width)
    assert pointed.share == pytest.approx(values.clip(0)[inside].sum() / values.clip(0).sum())


@given(SEEDS, st.integers(-20, 20))
def test_a_box_does_not_depend_on_the_unit_of_a_map(seed: int, exponent: int) -> None:
    values = drawn(seed)[0]
    one, other = boxes.box_of_map(values), boxes.box_of_map(values * 2.0**exponent)
    assert (one and one.box) == (other and other.box)


@pytest.mark.parametrize("values", [np.zeros((2, 2, 2)), np.array([[0.0, math.nan]]), np.array([[math.inf]])])
def test_a_box_of_what_is_no_map_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected a finite map \(h, w\)"):
        boxes.box_of_map(values)


@given(SEEDS)
def test_thresholds_keep_what_they_say(seed: int) -> None:
    values, truth = drawn(seed)
    half = boxes.relative_mask(values)
    assert half.sum() == round(values.size / 2)
    adaptive = boxes.adaptive_mask(values, truth)
    assert adaptive.sum() == (truth > 0).sum()
    for mask in (half, adaptive):
        if mask.any() and not mask.all():
            assert values[mask].min() >= values[~mask].max()
    assert np.array_equal(boxes.universal_mask(values, 0.4), values > 0.4)


@given(SEEDS, st.floats(0, 1))
def test_the_universal_threshold_leaves_at_most_a_share_above_it(seed: int, share: float) -> None:
    maps = [drawn(seed)[0], drawn(seed + 1)[0]]
    threshold = boxes.universal_threshold(maps, share)
    values = np.concatenate([one.ravel() for one in maps])
    assert (values > threshold).sum() <= share * len(values) + 1e-9
    assert threshold in values


@given(SEEDS)
def test_overlaps_are_their_sums_over_pixels(seed: int) -> None:
    values, truth = drawn(seed)
    predicted = values > 0.5
    top = bottom = inside = outside = 0.0
    for is_in, share in zip(predicted.ravel(), truth.ravel(), strict=True):
        top += share if is_in else 0
        bottom += share + (1 if is_in and share == 0 else 0)
        inside += is_in and share > 0
        outside += is_in or share > 0
    found = boxes.consensus_iou(predicted, truth)
    assert math.isnan(found) if bottom == 0 else found == pytest.approx(top / bottom)
    plain = boxes.iou(predicted, truth)
    assert math.isnan(plain) if outside == 0 else plain == pytest.approx(inside / outside)
    whole = (truth > 0).astype(float)
    np.testing.assert_allclose(boxes.consensus_iou(predicted, whole), plain)


def test_two_of_three_who_agree_are_certain() -> None:
    masks = [np.array([[1, 1, 1, 0]]), np.array([[1, 1, 0, 0]]), np.array([[1, 0, 0, 0]])]
    assert boxes.consensus(masks).tolist() == [[1, 1, 0.5, 0]]
    with pytest.raises(ValueError, match="of one shape"):
        boxes.consensus([masks[0], masks[1].T])


@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=8))
def test_successes_and_their_area(overlaps: list[float]) -> None:
    kept = [one for one in overlaps if not math.isnan(one)]
    values = np.array(overlaps, float)
    if not kept:
        assert math.isnan(boxes.success(values)) and math.isnan(boxes.area_under_successes(values))
        return
    assert boxes.success(values) == sum(one >= 0.5 for one in kept) / len(kept)
    curve = [sum(one >= step for one in kept) / len(kept) for step in np.linspace(0, 1, 21)]
    expected = sum((one + other) / 2 * 0.05 for one, other in pairwise(curve))
    assert boxes.area_under_successes(values) == pytest.approx(expected)


@given(SEEDS)
def test_precision_is_that_of_scikit_learn_and_f1_that_of_every_threshold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores, is_true = rng.integers(0, 5, 12) / 4, rng.integers(0, 3, 12) == 0
    if not is_true.any():
        assert math.isnan(boxes.average_precision(scores, is_true)) and math.isnan(boxes.largest_f1(scores, is_true))
        return
    assert boxes.average_precision(scores, is_true) == pytest.approx(average_precision_score(is_true, scores))
    best = 0.0
    for threshold in scores:
        taken = scores >= threshold
        best = max(best, 2 * (taken & is_true).sum() / (taken.sum() + is_true.sum()))
    assert boxes.largest_f1(scores, is_true) == pytest.approx(best)


@given(SEEDS, st.sampled_from(["relative", "adaptive", 0.4]))
def test_a_set_is_scored_picture_by_picture(seed: int, threshold: float | str) -> None:
    pairs = [drawn(seed + number) for number in range(5)]
    found = boxes.score_maps(*zip(*pairs, strict=True), threshold)
    counted = [(values, truth) for values, truth in pairs if truth.any()]
    assert found.num_pictures == len(counted)
    if not counted:
        assert math.isnan(found.success) and math.isnan(found.area) and math.isnan(found.pointing)
        return
    overlaps, hits = [], []
    for values, truth in counted:
        size = {"relative": round(values.size / 2), "adaptive": (truth > 0).sum()}.get(threshold)  # type: ignore[call-overload]
        mask = values > threshold if size is None else boxes.hottest(values, size)
        overlaps.append(boxes.consensus_iou(mask, truth))
        largest = [place for place in np.ndindex(values.shape) if values[place] == values.max()]
        hits.append(np.mean([truth[place] > 0 for place in largest]))
    assert found.mean_iou == pytest.approx(np.mean(overlaps))
    assert found.success == np.mean(np.array(overlaps) >= 0.5)
    assert found.pointing == pytest.approx(np.mean(hits))


def test_a_perfect_map_has_every_figure() -> None:
    truth = boxes.box_mask([(0, 0, 0.5, 1)], 4, 4).astype(float)
    for threshold in ("relative", "adaptive", 0.5):
        found = boxes.score_maps([truth], [truth], threshold)
        assert found.success == found.mean_iou == found.pointing == found.pixel_precision == 1.0
        assert found.area == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("maps", "truths", "threshold", "message"),
    [
        ([np.ones((2, 3))], [np.ones((3, 2))], "relative", r"got \(2, 3\) and \(3, 2\) of picture 0"),
        ([np.full((2, 2), np.nan)], [np.ones((2, 2))], "relative", "picture 0 has values that are not finite"),
        ([np.ones((2, 2))], [], "relative", "1 maps and 0 truths"),
        ([np.ones((2, 2))], [np.ones((2, 2))], "half", "relative, adaptive or a number, got 'half'"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    maps: list[np.ndarray], truths: list[np.ndarray], threshold: str, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        boxes.score_maps(maps, truths, threshold)


@given(SEEDS)
def test_sounding_is_judged_over_all_thresholds_of_confidence(seed: int) -> None:
    rng = np.random.default_rng(seed)
    maps, others = rng.integers(0, 5, (6, 4, 4)) / 4, rng.integers(0, 4, (5, 4, 4)) / 4
    truths = (maps > 0.4) * rng.integers(0, 2, (6, 1, 1)) * 1.0
    found = boxes.score_sounding(list(maps), list(truths), list(others), 0.5)
    is_found = [boxes.consensus_iou(values > 0.5, truth) >= 0.5 for values, truth in zip(maps, truths, strict=True)]
    confidences = [np.sort(values.ravel())[-4:].mean() for values in (*maps, *others)]
    num_sources = sum(truth.any() for truth in truths)
    if not num_sources:
        assert math.isnan(found.average_precision) and math.isnan(found.largest_f1)
        return
    best, precision, before = 0.0, 0.0, 0
    for threshold in sorted(set(confidences), reverse=True):
        taken = [one >= threshold for one in confidences]
        hits = sum(is_taken and is_hit for is_taken, is_hit in zip(taken, is_found, strict=False))
        best = max(best, 2 * hits / (sum(taken) + num_sources))
        precision += hits / sum(taken) * (hits - before) / num_sources
        before = hits
    assert found.average_precision == pytest.approx(precision)
    assert found.largest_f1 == pytest.approx(best)
    assert found.own_share == pytest.approx((maps > 0.5).mean())
    assert found.other_share == pytest.approx((others > 0.5).mean())


def test_priors_follow_their_formulas() -> None:
    disc = boxes.relative_mask(boxes.centre_disc(64, 64))
    y, x = (np.indices((64, 64)) + 0.5) / 64 - 0.5
    radius = math.sqrt(0.5 / math.pi)  # of a disc that covers half of a square of side 1
    assert (disc == (np.hypot(y, x) < radius)).mean() > 0.98
    share = 0.3
    truth = boxes.box_mask([(0, 0, share, 1)], 50, 50).astype(float)
    whole = boxes.score_maps([boxes.whole_picture(50, 50)], [truth], 0.5)
    assert whole.mean_iou == pytest.approx(share) and whole.pixel_precision == pytest.approx(share)
    maps = [np.full((2, 2), float(number)) for number in range(3)]
    assert [one[0, 0] for one in boxes.another_clips(maps)] == [2, 0, 1]
    frames = np.zeros((3, 4, 4, 3), np.uint8)
    frames[1, 1, 2] = 30
    difference = boxes.frame_difference(frames)
    assert difference[1, 2] == 30 and difference.sum() == 30


def test_the_prior_of_colours_is_the_mean_distance_from_the_median_around_a_pixel() -> None:
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (11, 20, 3), np.uint8)
    distances = np.linalg.norm(picture - np.median(picture.reshape(-1, 3), 0), axis=1 + 1)
    reach = boxes.NEIGHBOURHOOD // 2
    contrast = boxes.colour_contrast(picture)
    for y in range(11):
        for x in range(20):
            around = distances[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1]
            assert contrast[y, x] == pytest.approx(around.mean())
    assert not boxes.colour_contrast(np.full((5, 5, 3), 9)).any()
    with pytest.raises(ValueError, match="expected a picture"):
        boxes.colour_contrast(np.ones((2, 2)))


@pytest.mark.parametrize("threshold", ["relative", "adaptive", "universal"])
def test_each_row_is_scored_as_if_it_were_the_map(threshold: str) -> None:
    rng = np.random.default_rng(0)
    maps, frames = list(rng.random((4, 6, 6))), list(rng.integers(0, 255, (4, 3, 6, 6, 3)))
    pictures = [one[1] for one in frames]
    truths = [boxes.box_mask([(0.1, 0.1, 0.6, 0.7)], 6, 6) * 1.0] * 4
    rows = boxes.beside_priors(maps, truths, threshold, frames, pictures, share=0.25)
    own = {
        "map": maps,
        "another clip's map": maps[-1:] + maps[:-1],
        "whole picture": [np.ones((6, 6))] * 4,
        "centre disc": [boxes.centre_disc(6, 6)] * 4,
        "frame difference": [boxes.frame_difference(one) for one in frames],
        "colour contrast": [boxes.colour_contrast(one) for one in pictures],
    }
    assert rows.keys() == own.keys()
    for name, values in own.items():
        limit = boxes.universal_threshold(values, 0.25) if threshold == "universal" else threshold
        assert rows[name] == boxes.score_maps(values, truths, 0.0 if name == boxes.WHOLE else limit)
    assert list(boxes.beside_priors(maps, truths, threshold)) == list(own)[:-2]


def test_priors_need_two_clips_and_two_frames() -> None:
    with pytest.raises(ValueError, match="two maps or more"):
        boxes.another_clips([np.ones((2, 2))])
    with pytest.raises(ValueError, match="two frames"):
        boxes.frame_difference(np.ones((1, 2, 2, 3)))
