"""Write the gallery: one HTML page and its thumbnails, which open from disk with no server and no network."""

import hashlib
import os
import re
import statistics
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
import pyarrow as pa
from markupsafe import Markup
from PIL import Image

from selavi.atomic import write_atomically, write_text
from selavi.gallery.select import GalleryClip, GalleryCluster, select_clusters
from selavi.media import MediaError, decode_frames_at

STRIP_FRAMES = 4
STRIP_SHORT_SIDE = 160
_STRIP_NAME = re.compile(r"[0-9a-f]{24}\.jpg")
_UNKNOWN_DURATION_S = 1.0
_TILE_RATIOS = (3 / 4, 16 / 9)  # narrowest and widest tile, width over height
_FIGURE_NAMES = {
    "nmi": "NMI",
    "ami": "AMI",
    "ari": "ARI",
    "accuracy": "Accuracy",
    "purity": "Purity",
    "mean_entropy": "Mean entropy",
    "used_clusters": "Clusters used",
    "n": "Clips scored",
}


@dataclass(frozen=True)
class _Strip:
    """A thumbnail on disk: STRIP_FRAMES frames side by side, each of this width over height."""

    file_name: str
    ratio: float


@dataclass(frozen=True)
class _Tile:
    """What the template needs of one clip, beside the clip."""

    clip: GalleryClip
    position: int
    uncertain: bool
    media_url: str
    thumbnail_url: str | None
    ratio_class: str | None


def write_gallery(
    table: pa.Table,
    media_root: Path,
    out_dir: Path,
    *,
    title: str,
    head: int,
    clips_per_cluster: int = 12,
    summary: Mapping[str, object] | None = None,
    durations_s: Mapping[str, float] | None = None,
) -> Path:
    """Write `out_dir`/index.html and `out_dir`/thumbs/*.jpg.

    The page holds its styles and script, links the media by relative URL and forbids itself every other
    request.  Names, labels and paths are text in it, whatever they contain.  A clip whose picture cannot be
    decoded appears with a placeholder.  Thumbnails of an earlier gallery in the same folder that are no
    longer shown are removed.

    Args:
        table: a cluster table (selavi.export.CLUSTER_SCHEMA).
        media_root: the folder that the table's paths are relative to.
        out_dir: the gallery's folder, made where it does not exist.
        title: heading of the page.
        head: which head of the table to show.
        clips_per_cluster: clips a cluster; a quarter of them are the least confident ones.
        summary: figures for the top of the page by name, for example those of evaluate_clusters.
        durations_s: seconds of each clip by id, over which its thumbnail's frames are spread; a clip that is
            not in it shows its first second.

    Returns:
        The path of index.html.

    Raises:
        ValueError: the head is not in the table, or a path leads out of `media_root`.
    """
    clusters = select_clusters(table, head, clips_per_cluster)
    shown = [clip for cluster in clusters for clip in (*cluster.typical, *cluster.uncertain)]
    media = _media_paths(shown, media_root)

    thumbs_dir = out_dir / "thumbs"
    thumbs_dir.mkdir(parents=True, exist_ok=True)
    durations_s = durations_s or {}
    strips = {
        clip: _write_strip(clip, media[clip], durations_s.get(clip.id, _UNKNOWN_DURATION_S), thumbs_dir)
        for clip in shown
    }
    page = out_dir / "index.html"
    write_text(page, _render(clusters, media, strips, out_dir, title=title, head=head, summary=summary or {}))

    kept = {strip.file_name for strip in strips.values() if strip}
    for file in thumbs_dir.iterdir():
        if _STRIP_NAME.fullmatch(file.name) and file.name not in kept:
            file.unlink()
    return page


def _media_paths(clips: list[GalleryClip], media_root: Path) -> dict[GalleryClip, Path]:
    """Join each path with the root, refusing those that lead out of it; links inside it are followed."""
    root = Path(os.path.abspath(media_root))
    paths = {clip: Path(os.path.normpath(root / clip.path)) for clip in clips}
    outside = [clip.path for clip, path in paths.items() if root not in path.parents]
    if outside:
        raise ValueError(
            f"{len(outside)} of {len(clips)} clips lie outside the media root {root}, for example "
            f"{outside[0]!r}: expected paths relative to it"
        )
    return paths


def _write_strip(clip: GalleryClip, media: Path, duration_s: float, thumbs_dir: Path) -> _Strip | None:
    """Write the frame strip of a clip, named by a hash (an id may hold anything), or return None."""
    file_name = hashlib.sha256(f"{clip.id}\n{clip.start_s}".encode()).hexdigest()[:24] + ".jpg"
    times_s = clip.start_s + (np.arange(STRIP_FRAMES) + 0.5) * duration_s / STRIP_FRAMES
    try:
        # One seek a frame: a single call would decode all that lies between the first and the last.
        frames = [decode_frames_at(media, [float(time_s)], STRIP_SHORT_SIDE)[0] for time_s in times_s]
    except MediaError:
        return None
    height, width = frames[0].shape[:2]
    strip = Image.new("RGB", (STRIP_FRAMES * width, height))
    for index, frame in enumerate(frames):  # of another size where the recording changes its size midway
        strip.paste(Image.fromarray(frame).resize((width, height)), (index * width, 0))
    with write_atomically(thumbs_dir / file_name) as temporary:
        strip.save(temporary, format="JPEG", quality=82)
    return _Strip(file_name, width / height)


def _render(
    clusters: list[GalleryCluster],
    media: dict[GalleryClip, Path],
    strips: dict[GalleryClip, _Strip | None],
    out_dir: Path,
    *,
    title: str,
    head: int,
    summary: Mapping[str, object],
) -> str:
    ratios = sorted({round(strip.ratio, 3) for strip in strips.values() if strip})
    ratio_classes = {ratio: f"r{index}" for index, ratio in enumerate(ratios)}

    def tile(clip: GalleryClip, position: int, uncertain: bool) -> _Tile:
        strip = strips[clip]
        return _Tile(
            clip,
            position,
            uncertain,
            media_url=_relative_url(media[clip], out_dir),
            thumbnail_url=f"thumbs/{strip.file_name}" if strip else None,
            ratio_class=ratio_classes[round(strip.ratio, 3)] if strip else None,
        )

    cards = []
    for cluster in clusters:
        clips = [(clip, False) for clip in cluster.typical] + [(clip, True) for clip in cluster.uncertain]
        cards.append((cluster, [tile(clip, i, uncertain) for i, (clip, uncertain) in enumerate(clips, 1)]))

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("selavi.gallery"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(grouped="{:,}".format, percent="{:.0%}".format, confidence="{:.2f}".format)
    style = _source(environment, "gallery.css") + _ratio_rules(strips, ratio_classes)
    script = _source(environment, "gallery.js")
    return environment.get_template("index.html.j2").render(
        title=title,
        head=head,
        cards=cards,
        num_clips=sum(cluster.size for cluster in clusters),
        largest=clusters[0].size,
        has_labels=any(cluster.top_label is not None for cluster in clusters),
        figures=[(_FIGURE_NAMES.get(name, name), _format(value)) for name, value in summary.items()],
        style=Markup(style),  # our own files, none of the user's text
        script=Markup(script),
        policy="; ".join(
            [
                "default-src 'none'",
                "img-src 'self' file:",
                "media-src 'self' file:",
                f"style-src {_digest(style)}",
                f"script-src {_digest(script)}",
                "base-uri 'none'",
                "form-action 'none'",
            ]
        ),
    )


def _source(environment: jinja2.Environment, name: str) -> str:
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _ratio_rules(strips: dict[GalleryClip, _Strip | None], ratio_classes: dict[float, str]) -> str:
    """Style rules: the tile takes the clips' median shape; other shapes lie inside it whole."""
    shapes = [strip.ratio for strip in strips.values() if strip]
    narrowest, widest = _TILE_RATIOS
    tile = min(max(statistics.median_low(shapes), narrowest), widest) if shapes else 4 / 3
    rules = [f":root{{--tile:{tile:.3f}}}"]
    rules += [f".{name}{{--ratio:{ratio:.3f}}}" for ratio, name in ratio_classes.items()]
    return "\n".join(rules) + "\n"


def _relative_url(path: Path, out_dir: Path) -> str:
    """Percent-encode all but the slashes: no name is then taken for a query, a fragment or a scheme."""
    return quote(Path(os.path.relpath(path, out_dir)).as_posix(), safe="/")


def _digest(text: str) -> str:
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _format(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
