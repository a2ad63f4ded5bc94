"""The gallery's data: JavaScript files that call a function of the page with JSON, for a page from disk cannot fetch.

Each file is ASCII, written whole or not at all, and nothing of a name or label can leave its string: `<`, `>`, `&` and
everything that is not ASCII is escaped.
"""

import json
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from selavi.atomic import write_text
from selavi.results.gallery.boxes import PlacedBoxes
from selavi.results.gallery.columns import Columns
from selavi.results.gallery.select import Cluster, Head, HeadClusters

FORMAT = 1
PART = 1000
"""Members of a file."""
IDS_PART = 20_000
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026"}

MediaOf = Callable[[np.ndarray], tuple[list[str | None], list[bool], list[str]]]
"""Gives, for some clips, their media as seen from index.html (None where there is none), whether browsers can play
them, and whether they are `video` or `audio`."""


@dataclass(frozen=True)
class PictureNames:
    """File names, 24 hexadecimal digits, of each clip's pictures; empty where there is none."""

    thumbnails: np.ndarray
    """(N,) bytes."""
    evidence: np.ndarray
    """(N,) bytes; shown under the chosen head."""
    boxes: PlacedBoxes | None = None
    """N of them, shown with the evidence; None where the run has no boxes."""
    box_maps: str = "evidence"
    """The kind of maps that the boxes are of."""
    maps: str = "contrast"
    """The kind of maps that glow in pictures."""
    worth: str = ""
    """What was measured of how well these point at things, in words; may be empty."""


def encode(value: Any) -> str:
    """JSON that is safe inside a script: pure ASCII without `<`, `>` and `&`.

    Raises:
        ValueError: a number is not finite.
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character, escaped in _ESCAPES.items():  # in JSON they occur within strings only
        text = text.replace(character, escaped)
    return text


def write_call(path: Path, function: str, *arguments: Any) -> Path:
    """Write a script that calls one of the page's functions."""
    write_text(path, f"{function}({','.join(map(encode, arguments))});\n")
    return path


def write_members(
    folder: Path,
    head: Head,
    clusters: HeadClusters,
    cluster: Cluster,
    clips: pa.Table,
    pictures: PictureNames,
    media_of: MediaOf,
    with_evidence: bool,
    own_columns: Columns | None = None,
    kept: np.ndarray | None = None,
) -> list[Path]:
    """Write data/hH/cC.js and, with more than PART members, cC-1.js ...; returns the files.

    Args:
        folder: the gallery's data folder.
        head: the head's figures.
        clusters: its clusters.
        cluster: one of them.
        clips: of select.arrange.
        pictures: thumbnails, evidence and boxes of the clips.
        media_of: links.
        with_evidence: whether evidence and boxes are this head's.
        own_columns: what a table says of the clips.
        kept: (N,) of alike.OtherHeads; None where there is one head.
    """
    members = clusters.clips(cluster)
    name = f"h{clusters.head}/c{cluster.cluster}"

    def columns(rows: np.ndarray) -> dict[str, Any]:
        chosen = clips.take(pa.array(rows))
        urls, playable, kinds = media_of(rows)
        evidence = _urls("evidence", pictures.evidence[rows], "png") if with_evidence else [None] * len(rows)
        own = {"texts": own_columns.rows(rows), "picture": own_columns.urls(rows)} if own_columns else {}
        return own | {
            "id": chosen["id"].to_pylist(),
            "row": rows.tolist(),
            "path": chosen["path"].to_pylist(),
            "label": chosen["label"].to_pylist(),
            "confidence": rounded(head.confidence[rows]),
            "margin": rounded(head.margin[rows]),
            "entropy": rounded(head.entropy[rows]),
            "agreement": rounded(head.agreement[rows]),
            **({} if kept is None else {"heads": rounded(kept[rows], 2)}),
            "start": rounded(chosen["start_s"].to_numpy()),
            "duration": rounded(chosen["duration_s"].to_numpy()),
            "media": urls,
            "playable": playable,
            "kind": kinds,
            "thumb": _urls("thumbs", pictures.thumbnails[rows], "jpg"),
            "evidence": evidence,
            **({"boxes": [pictures.boxes[row] for row in rows]} if with_evidence and pictures.boxes else {}),
        }

    files = []
    for part, start in enumerate(range(0, len(members), PART)):
        content = {"part": part, **columns(members[start : start + PART])}
        if part == 0:
            far = sorted(rank for rank in cluster.shown if rank >= PART)
            place = {rank: PART + j for j, rank in enumerate(far)}
            rows = {"typical": cluster.typical, "borderline": cluster.borderline, "odd": cluster.odd}
            content["rows"] = {kind: [place.get(rank, rank) for rank in ranks] for kind, ranks in rows.items()}
            if far:
                content["extra"] = columns(members[far])
        path = folder / f"{name}{f'-{part}' if part else ''}.js"
        files.append(write_call(path, "selavi.members", name, content))
    return files


def describe_cluster(
    cluster: Cluster, members: np.ndarray, thumbnails: np.ndarray, own_columns: Columns | None = None
) -> dict[str, Any]:
    """A cluster's entry in data/index.js."""
    typical = members[cluster.typical]
    own = [url for url in own_columns.urls(typical) if url] if own_columns else []
    covers = _urls("thumbs", thumbnails[typical], "jpg")
    return {
        "cluster": cluster.cluster,
        "size": cluster.size,
        "confidence": round(cluster.confidence, 3),
        "agreement": _round(cluster.agreement),
        "purity": _round(cluster.purity),
        "entropy": _round(cluster.entropy),
        "labels": cluster.labels,
        "numLabelled": cluster.num_labelled,
        "suggestion": cluster.suggestion,
        "nearest": cluster.nearest,
        "cover": [url for url in covers if url][:4],
        "pictures": own[:4],
        "parts": -(-cluster.size // PART),
    }


def write_ids(folder: Path, clips: pa.Table, heads: Sequence[Head], own_columns: Columns | None = None) -> list[Path]:
    """Write data/ids-0.js ...: every clip's id, texts and cluster under each head, for searching."""
    files = []
    for part, start in enumerate(range(0, len(clips), IDS_PART)):
        rows = slice(start, start + IDS_PART)
        content: dict[str, Any] = {"id": clips["id"].slice(start, IDS_PART).to_pylist()}
        content |= {f"h{head.head}": head.cluster[rows].tolist() for head in heads}
        if own_columns:
            content["texts"] = own_columns.rows(np.arange(start, start + len(content["id"])))
        files.append(write_call(folder / f"ids-{part}.js", "selavi.ids", part, content))
    return files


def write_labels(folder: Path, head: int, table: tuple[list[str], list[tuple[int, int, int]]]) -> Path:
    """Write data/labels-hH.js: how many clips of each label lie in each cluster.

    Args:
        folder: the gallery's data folder.
        head: its number.
        table: of Selector.label_table.
    """
    names, cells = table
    clusters = sorted({cluster for _, cluster, _ in cells})
    place = {cluster: column for column, cluster in enumerate(clusters)}
    counts = [(row, place[cluster], count) for row, cluster, count in cells]
    content = {"labels": names, "clusters": clusters, "counts": counts}
    return write_call(folder / f"labels-h{head}.js", "selavi.labels", f"h{head}", content)


def write_map(
    folder: Path,
    rows: np.ndarray,
    positions: np.ndarray,
    clips: pa.Table,
    heads: Sequence[Head],
    thumbnails: np.ndarray,
    about: Mapping[str, Any],
    own_columns: Columns | None = None,
) -> Path:
    """Write data/map.js.

    Args:
        folder: the gallery's data folder.
        rows: (P,) the clips that are drawn.
        positions: (P, 2) uint16.
        clips: of select.arrange.
        heads: whose clusters colour the points.
        thumbnails: of PictureNames.
        about: method and explained.
        own_columns: what a table says of the clips.
    """
    content = {
        "x": base64_of(positions[:, 0].astype("<u2")),
        "y": base64_of(positions[:, 1].astype("<u2")),
        "cluster": {f"h{head.head}": base64_of(head.cluster[rows].astype("<i4")) for head in heads},
        "ids": clips["id"].take(pa.array(rows)).to_pylist(),
        "thumb": _urls("thumbs", thumbnails[rows], "jpg"),
        **about,
        "shown": len(rows),
        "of": len(clips),
    }
    if own_columns:
        content |= {"texts": own_columns.rows(rows), "picture": own_columns.urls(rows)}
    return write_call(folder / "map.js", "selavi.map", content)


def remove_stale(folder: Path, suffixes: Sequence[str], kept: set[Path]) -> int:
    """Remove files with these suffixes below a folder that are not in `kept`, and folders left empty.

    Returns:
        How many files there were.
    """
    stale = [path for path in _files(folder) if path.suffix in suffixes and path not in kept]
    for path in stale:
        path.unlink()
    for parent in {path.parent for path in stale} - {folder}:
        if not any(parent.iterdir()):
            parent.rmdir()
    return len(stale)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _urls(folder: str, names: np.ndarray, suffix: str) -> list[str | None]:
    """Path of each picture from the page, None for an empty name."""
    texts = [name.decode() for name in names.tolist()]
    return [f"{folder}/{text[:2]}/{text}.{suffix}" if text else None for text in texts]


def rounded(values: np.ndarray, digits: int = 3) -> list[float | None]:
    """Numbers with a few decimals, None for those that are not finite."""
    numbers = np.round(values.astype(np.float64), digits)
    cells = numbers.astype(object)
    cells[~np.isfinite(numbers)] = None
    return cells.tolist()


def _round(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def base64_of(values: np.ndarray) -> str:
    """The bytes of an array, as the page's decodeArray reads them."""
    return b64encode(values.tobytes()).decode()
