"""Recordings cut into clips: pieces of a given length, or shots, each a row of its own in the manifest.

    recording   |--------------------------------------------|--|      25 s
    pieces      [ #t=0.0,10.0 ][ #t=10.0,20.0 ][ 20.0,25.0 ]           data.cut_s=10
                [ #t=0.0,10.0 ]                                        data.cut_s=10, data.stride_s=5
                       [ #t=5.0,15.0 ]
                              [ #t=10.0,20.0 ]
                                      [ 15.0,25.0 ]
    shots       |aaaaaa|bbbbbbbbbbbbbbbbbbbbbbbbbbbbb|ccc...|          data.cut=shots, data.cut_s=10: a longer one
                [  a   ][    b    ][    b    ][    b    ][c]           is cut into equal parts

The last piece may be shorter, but not shorter than what a run reads at once; what is left over is counted.  A piece
is known by `path#t=begin,end`, as W3C's Media Fragments write it, and has the split and the label of its recording.
"""

import logging
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.manifest import probed
from datamodules.index.shots import find_shots
from datamodules.stores.cache import are_still
from selavi.config import Config
from selavi.media import SILENCE_S
from selavi.modalities import SLACK_S, clip_seconds, reads_frames
from selavi.runs.manifest import SCHEMA

log = logging.getLogger("selavi")


def cut_for(config: Config, manifest: pa.Table) -> pa.Table:
    """The manifest with recordings cut as a run's data.cut says, which a warning tells of; those of 0 s stay whole."""
    data, least_s = config.data, clip_seconds(config)
    if data.cut == "whole":
        return manifest
    if data.cut == "every":
        cut, description = cut_evenly(manifest, data.cut_s, data.stride_s or data.cut_s, least_s)
    else:
        cut, description = cut_into_shots(
            manifest,
            Path(data.cache_dir),
            by_picture=reads_frames(config, config.kinds),
            longest_s=data.cut_s,
            least_s=least_s,
            workers=data.scan_workers,
        )
    log.warning(description)
    return cut


def cut_into_shots(
    manifest: pa.Table, cache_dir: Path, *, by_picture: bool, longest_s: float, least_s: float, workers: int = 0
) -> tuple[pa.Table, str]:
    """Look for the shots of every recording, and cut it there; see cut_at and datamodules.index.shots.

    Raises:
        UsageError: there are pictures to look at, and PySceneDetect is not installed.
    """
    rows = np.flatnonzero(_can_be_cut(manifest))
    shots: list[np.ndarray | None] = [None] * len(manifest)
    trouble = ""
    if len(rows):
        recordings = manifest.take(pa.array(rows))
        parts, trouble = find_shots(recordings, cache_dir, by_picture=by_picture, least_s=least_s, workers=workers)
        for row, part in zip(rows.tolist(), parts, strict=True):
            shots[row] = np.zeros(0) if part is None else part
    cut, description = cut_at(manifest, shots, longest_s, least_s)
    return cut, f"{description}; {trouble}, and are cut into equal parts" if trouble else description


def _can_be_cut(manifest: pa.Table) -> np.ndarray:
    """(n,) bool: whole recordings that could be probed and have a length, but for doubles that a run leaves out."""
    is_double = pc.fill_null(pc.equal(manifest["status"], "double"), False).to_numpy(zero_copy_only=False)
    lasts = pc.fill_null(manifest["duration_s"], 0.0).to_numpy() > 0
    can_be: np.ndarray = ~is_double & lasts & pc.is_null(manifest["end_s"]).to_numpy()
    return can_be


def cut_at(
    manifest: pa.Table, shots: Sequence[np.ndarray | None], longest_s: float, least_s: float
) -> tuple[pa.Table, str]:
    """Cut every recording where its shots begin, and longer shots into equal parts.

    Args:
        manifest: n rows.
        shots: n ascending arrays of the seconds at which shots begin, but for the first; None: the row stays as it is.
        longest_s: no piece is longer.
        least_s: no piece is shorter: a shot that is joins the one before it, the first one that after it.

    Returns:
        The manifest, pieces in the order of time in the place of their recording; and what was done, as a sentence.
    """
    duration_s = pc.fill_null(manifest["duration_s"], 0.0).to_numpy()
    row, start_s, end_s = [], [], []
    num_shots = 0
    for number, begins_s in enumerate(shots):
        edges_s = _edges(begins_s, duration_s[number], longest_s, least_s) if begins_s is not None else np.zeros(2)
        num_shots += 0 if begins_s is None else len(begins_s) + 1
        is_whole = len(edges_s) == 2
        row.append(np.full(len(edges_s) - 1, number))
        start_s.append(edges_s[:-1])
        end_s.append(np.full(1, np.nan) if is_whole else edges_s[1:])
    rows, ends_s = np.concatenate(row), np.concatenate(end_s)
    table = as_pieces(manifest, rows, np.concatenate(start_s), ends_s)
    is_cut = np.bincount(rows, minlength=len(manifest)) > 1
    subject = f"{is_cut.sum():,} recordings are" if is_cut.sum() != 1 else "1 recording is"
    num_pieces = int((~np.isnan(ends_s)).sum())
    description = f"{subject} cut into {num_pieces:,} pieces, at {num_shots:,} shots"
    num_whole = len(probed(manifest)) - int(is_cut.sum())
    return table, f"{description}; {num_whole:,} stay whole" if num_whole else description


def _edges(begins_s: np.ndarray, duration_s: float, longest_s: float, least_s: float) -> np.ndarray:
    """Where the pieces of a recording begin, and where the last one ends, to a thousandth of a second."""
    edges = [0.0]
    for begin_s in begins_s:
        if begin_s - edges[-1] >= least_s - SLACK_S and duration_s - begin_s >= least_s - SLACK_S:
            edges.append(float(begin_s))
    parts = [np.zeros(1)]
    for begin_s, end_s in pairwise([*edges, duration_s]):
        length_s = end_s - begin_s
        num_parts = max(1, min(int(np.ceil((length_s - SLACK_S) / longest_s)), int((length_s + SLACK_S) // least_s)))
        parts.append(begin_s + length_s * np.arange(1, num_parts + 1) / num_parts)
    rounded: np.ndarray = np.round(np.concatenate(parts), 3)
    return rounded


def cut_evenly(manifest: pa.Table, cut_s: float, stride_s: float, least_s: float) -> tuple[pa.Table, str]:
    """Cut every recording that is longer than a piece into pieces of one length.

    Args:
        manifest: what could not be probed, still pictures, and spans that a list names stay as they are.
        cut_s: length of a piece.
        stride_s: from the beginning of a piece to that of the next.
        least_s: a last piece that is shorter is left out.

    Returns:
        The manifest, pieces in the order of time in the place of their recording; and what was done, as a sentence.
    """
    duration_s = pc.fill_null(manifest["duration_s"], 0.0).to_numpy()
    num_pieces = np.ones(len(manifest), np.int64)
    is_long = (duration_s > cut_s + SLACK_S) & _can_be_cut(manifest)
    # After the first: as many as it takes to reach the end, but for a last one that would be too short.
    reaching = np.ceil((duration_s - SLACK_S - cut_s) / stride_s)
    long_enough = np.floor((duration_s + SLACK_S - least_s) / stride_s)
    num_pieces[is_long] += np.minimum(reaching, long_enough)[is_long].astype(np.int64)
    row = np.repeat(np.arange(len(manifest)), num_pieces)
    number = np.arange(len(row)) - np.repeat(np.cumsum(num_pieces) - num_pieces, num_pieces)
    start_s = np.round(number * stride_s, 3)
    end_s = np.round(np.minimum(start_s + cut_s, duration_s[row]), 3)
    left_s = np.where(is_long, duration_s - end_s[np.cumsum(num_pieces) - 1], 0.0)
    table = as_pieces(manifest, row, start_s, np.where(is_long[row], end_s, np.nan))
    return table, _describe(manifest, is_long, int(num_pieces[is_long].sum()), left_s, cut_s)


def piece_id(path: str, start_s: float, end_s: float) -> str:
    """The id of a piece of a recording, such as film.mp4#t=120.0,130.0."""
    return f"{path}#t={_seconds(start_s)},{_seconds(end_s)}"


def _seconds(value: float) -> str:
    """To a thousandth, with at least one digit behind the point."""
    text = f"{value:.3f}".rstrip("0")
    return f"{text}0" if text.endswith(".") else text


def as_pieces(manifest: pa.Table, row: np.ndarray, start_s: np.ndarray, end_s: np.ndarray) -> pa.Table:
    """Pieces of recordings as rows of a manifest.

    Args:
        manifest: rows of recordings.
        row: (n,) of the manifest.
        start_s: (n,) where each piece begins.
        end_s: (n,) where it ends; NaN: the row stays as it is.
    """
    rows, is_piece = manifest.take(pa.array(row)), ~np.isnan(end_s)
    chosen = np.flatnonzero(is_piece)
    names = rows["id"].take(pa.array(chosen)).to_pylist()
    times = zip(names, start_s[chosen].tolist(), end_s[chosen].tolist(), strict=True)
    state = rows["audio_state"].to_numpy(zero_copy_only=False).copy()
    audio_s = pc.fill_null(rows["audio_s"], 0.0).to_numpy().copy()
    heard = is_piece & ((state == "ok") | (state == "silent"))
    audio_s[heard] = np.clip((audio_s - start_s)[heard], 0.0, (end_s - start_s)[heard])
    state[heard & (audio_s <= 0)] = "absent"
    state[heard & (state == "silent") & (end_s > SILENCE_S)] = "ok"  # nobody has listened there
    columns = {
        "id": pc.replace_with_mask(
            rows["id"].combine_chunks(), pa.array(is_piece), pa.array([piece_id(*one) for one in times], pa.string())
        ),
        "start_s": pc.if_else(pa.array(is_piece), pa.array(start_s), rows["start_s"].combine_chunks()),
        "end_s": pc.if_else(pa.array(is_piece), pa.array(end_s), rows["end_s"].combine_chunks()),
        "duration_s": pc.if_else(pa.array(is_piece), pa.array(end_s - start_s), rows["duration_s"].combine_chunks()),
        "audio_s": pc.if_else(pa.array(is_piece), pa.array(audio_s), rows["audio_s"].combine_chunks()),
        "audio_state": pa.array(state, pa.string()),
    }
    for name, values in columns.items():
        rows = rows.set_column(rows.schema.get_field_index(name), SCHEMA.field(name), values)
    return rows


def _describe(manifest: pa.Table, is_long: np.ndarray, num_pieces: int, left_s: np.ndarray, cut_s: float) -> str:
    """How many recordings became how many pieces, what stayed whole, and what was left over."""
    recordings = probed(manifest)
    num_long = int(is_long.sum())
    subject = f"{num_long:,} recordings are" if num_long != 1 else "1 recording is"
    parts = [f"{subject} cut into {num_pieces:,} pieces of {cut_s:g} s"]
    if num_whole := len(recordings) - int(is_long.sum()):
        kind = "still pictures" if are_still(recordings).all() else "not longer than that"
        parts.append(f"{num_whole:,} stay whole, {kind}")
    is_left = left_s > SLACK_S
    if is_left.any():
        parts.append(f"{left_s.sum():.1f} s at the ends of {is_left.sum():,} are too short for a piece and left out")
    return "; ".join(parts)
