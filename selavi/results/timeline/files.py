"""Segments of recordings as other tools read them: a CSV of all, and WebVTT, Audacity's labels and RTTM of each.

WebVTT: https://www.w3.org/TR/webvtt1/ (players show the names as subtitles).  Audacity: File > Import > Labels.  RTTM:
NIST's format of who speaks when, which tools of diarisation and sound events compare.
"""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from selavi.atomic import write_atomically, write_text
from selavi.results.timeline.segments import Segment, find_segments

COLUMNS = ("path", "start_s", "end_s", "cluster", "name", "confidence")


def segments_of(table: pa.Table) -> dict[str, list[Segment]]:
    """The segments of each recording.

    Args:
        table: assignments of pieces under one head.
    """
    table = table.sort_by([("path", "ascending"), ("start_s", "ascending")]).combine_chunks()
    paths = table["path"].combine_chunks().dictionary_encode()
    firsts = np.flatnonzero(np.diff(paths.indices.to_numpy(), prepend=-1)).tolist()
    return {
        paths.dictionary[paths.indices[first].as_py()].as_py(): _segments(table.slice(first, following - first))
        for first, following in pairwise([*firsts, len(table)])
    }


def _segments(pieces: pa.Table) -> list[Segment]:
    """Those of one recording, by the probabilities of the clusters that any of its pieces names."""
    nearest = pieces["nearest"].combine_chunks()
    others = nearest.flatten()
    rows = np.concatenate(
        [np.repeat(np.arange(len(pieces)), nearest.value_lengths().to_numpy()), np.arange(len(pieces))]
    )
    clusters = np.concatenate([others.field("cluster").to_numpy(), pieces["cluster"].to_numpy()])
    shares = np.concatenate([others.field("probability").to_numpy(), pieces["confidence"].to_numpy()])
    numbers, place = np.unique(clusters, return_inverse=True)
    probabilities = np.zeros((len(pieces), len(numbers)))
    probabilities[rows, place] = shares
    segments = find_segments(pieces["start_s"].to_numpy(), pieces["end_s"].to_numpy(), probabilities)
    return [replace(segment, cluster=int(numbers[segment.cluster])) for segment in segments]


def write_timelines(
    segments: Mapping[str, Sequence[Segment]], names: Mapping[int, str | None], out: Path
) -> tuple[Path, Path]:
    """Write OUT/timeline.csv, and OUT/timeline/RECORDING with the suffixes .vtt, .txt and .rttm.

    Args:
        segments: of each recording, by its path below the media folder.
        names: of the clusters, as far as people have named them.
        out: folder.

    Returns:
        The table and the folder.
    """
    folder = out / "timeline"
    for path, of_recording in segments.items():
        called = [(one, describe(one.cluster, names)) for one in of_recording]
        stem = folder / path
        stem.parent.mkdir(parents=True, exist_ok=True)
        for suffix, text in (
            ("vtt", _webvtt(called)),
            ("txt", _audacity(called)),
            ("rttm", _rttm(Path(path).stem, called)),
        ):
            write_text(stem.with_name(f"{stem.name}.{suffix}"), text)
    table = out / "timeline.csv"
    with write_atomically(table) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for path, of_recording in segments.items():
            for one in of_recording:
                times = (f"{one.start_s:.3f}", f"{one.end_s:.3f}")
                writer.writerow([path, *times, one.cluster, names.get(one.cluster) or "", f"{one.confidence:.4f}"])
    return table, folder


def describe(cluster: int, names: Mapping[int, str | None]) -> str:
    """The name of a cluster, else its number in words."""
    return names.get(cluster) or ("rejected" if cluster < 0 else f"cluster {cluster}")


def _webvtt(called: Iterable[tuple[Segment, str]]) -> str:
    cues = ["WEBVTT\n"]
    for one, name in called:
        text = _plain(name).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
        cues.append(f"{_clock(one.start_s)} --> {_clock(one.end_s)}\n{text}\n")
    return "\n".join(cues)


def _clock(time_s: float) -> str:
    """A time such as 00:01:02.500."""
    thousandths = round(time_s * 1000)
    seconds, thousandths = divmod(thousandths, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}.{thousandths:03}"


def _audacity(called: Iterable[tuple[Segment, str]]) -> str:
    return "".join(f"{one.start_s:.6f}\t{one.end_s:.6f}\t{_plain(name)}\n" for one, name in called)


def _rttm(recording: str, called: Iterable[tuple[Segment, str]]) -> str:
    """Fields are parted by blanks, so that names have none."""
    file = _word(recording)
    return "".join(
        f"SPEAKER {file} 1 {one.start_s:.3f} {one.end_s - one.start_s:.3f} <NA> <NA> {_word(name)} "
        f"{one.confidence:.3f} <NA>\n"
        for one, name in called
    )


def _plain(name: str) -> str:
    """A name on one line."""
    return " ".join(name.split())


def _word(name: str) -> str:
    return re.sub(r"\s+", "_", name.strip()) or "_"
