"""Recordings cut into clips: pieces of a given length, each a row of its own in the manifest.

    recording   |--------------------------------------------|--|      25 s
    pieces      [ #t=0.0,10.0 ][ #t=10.0,20.0 ][ 20.0,25.0 ]           data.cut_s=10
                [ #t=0.0,10.0 ]                                        data.cut_s=10, data.stride_s=5
                       [ #t=5.0,15.0 ]
                              [ #t=10.0,20.0 ]
                                      [ 15.0,25.0 ]

The last piece may be shorter, but not shorter than what a run reads at once; what is left over is counted.  A piece
is known by `path#t=begin,end`, as W3C's Media Fragments write it, and has the split and the label of its recording.
"""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.manifest import probed
from datamodules.stores.cache import are_still
from selavi.config import Config
from selavi.media import SILENCE_S
from selavi.modalities import SLACK_S, clip_seconds
from selavi.runs.manifest import SCHEMA

log = logging.getLogger("selavi")


def cut_for(config: Config, manifest: pa.Table) -> pa.Table:
    """The manifest with recordings cut as a run's data.cut says, which a warning tells of; those of 0 s stay whole."""
    data = config.data
    if data.cut == "whole":
        return manifest
    cut, told = cut_evenly(manifest, data.cut_s, data.stride_s or data.cut_s, clip_seconds(config))
    log.warning(told)
    return cut


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
    is_long = (duration_s > cut_s + SLACK_S) & pc.is_null(manifest["end_s"]).to_numpy()
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
