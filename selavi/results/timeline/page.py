"""A page for each recording: its segments as a coloured track under picture and spectrogram, to click and hear.

    OUT/timeline/index.html             the recordings, where there are several
    OUT/timeline/day1/cam.mkv.html      a page, beside cam.mkv.vtt and the others
    OUT/timeline/media/DIGEST.jpg       its pictures; DIGEST-sound.jpg, the spectrogram; DIGEST.mp4, what browsers play

The page opens from disk, asks the network for nothing, and plays the recording where it lies.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from markupsafe import Markup
from PIL import Image

from selavi.atomic import write_atomically, write_text
from selavi.filesystem import Enclosure
from selavi.media import MediaError, playable, probe, transcode
from selavi.results.gallery.page import policy
from selavi.results.gallery.thumbnails import thumbnail_name
from selavi.results.timeline.files import describe
from selavi.results.timeline.pictures import BANDS, HEIGHT, draw_sheet, draw_spectrogram, num_columns, plan_sheet
from selavi.results.timeline.segments import Segment

NUM_COLOURS = 12
"""Clusters with a colour of their own, those with the most time; more colours could not be told apart."""
_BARS = 400
"""Segments that the list of recordings draws of one."""


@dataclass(frozen=True)
class Seen:
    """What a page shows of a recording beside its segments; None for what is not there."""

    duration_s: float
    media: str | None = None
    """URL, from the page."""
    has_picture: bool = False
    why: str = ""
    """Why nothing can be played; empty where it can."""
    sheet: dict[str, Any] | None = None
    sound: dict[str, Any] | None = None
    faults: list[str] = field(default_factory=list)
    """What could not be drawn, and why."""


def write_pages(
    segments: Mapping[str, Sequence[Segment]],
    names: Mapping[int, str | None],
    folder: Path,
    root: Path | None,
    transcoded: bool,
    follow: Callable[[Iterable[str]], Iterable[str]] = iter,
) -> Path | None:
    """Write the pages; pictures of an unchanged recording that are there are kept.

    Args:
        segments: of each recording, by its path below `root`.
        names: of the clusters, as far as people have named them.
        folder: of the pages.
        root: the media folder; None where there are no files, such as of prepared clips.
        transcoded: whether recordings that browsers do not play are transcoded.
        follow: yields the recordings and shows how far they are.

    Returns:
        The page to begin with; None without recordings.
    """
    ranks = rank_clusters(segments)
    places = {path: folder / f"{path}.html" for path in segments}
    shown = {}
    for path in follow(list(segments)):
        duration_s = segments[path][-1].end_s if segments[path] else 0.0
        shown[path] = look(path, root, folder, places[path].parent, duration_s, transcoded)
    environment = _environment()
    ways = list(segments)
    for number, path in enumerate(ways):
        around = {
            "index": _url(folder / "index.html", places[path].parent) if len(ways) > 1 else None,
            "before": _url(places[ways[number - 1]], places[path].parent) if number else None,
            "after": _url(places[ways[number + 1]], places[path].parent) if number + 1 < len(ways) else None,
        }
        data = page_data(path, segments[path], names, ranks, shown[path])
        _render(environment, "timeline.html.j2", places[path], path, data=data, around=around)
    if len(ways) < 2:
        return places[ways[0]] if ways else None
    rows = [_row(path, segments[path], names, ranks, _url(places[path], folder), shown[path]) for path in ways]
    _render(environment, "index.html.j2", folder / "index.html", "Timelines", recordings=rows)
    return folder / "index.html"


def rank_clusters(segments: Mapping[str, Sequence[Segment]]) -> dict[int, int]:
    """Cluster -> its place by time over all recordings, from 0, and what is rejected last."""
    time_s = _time_of(one for of_recording in segments.values() for one in of_recording)
    ordered = sorted(time_s, key=lambda cluster: (cluster < 0, -time_s[cluster], cluster))
    return {cluster: place for place, cluster in enumerate(ordered)}


def page_data(
    path: str, segments: Sequence[Segment], names: Mapping[int, str | None], ranks: Mapping[int, int], seen: Seen
) -> dict[str, Any]:
    """What the page's script reads.  Segments hold the place of their cluster in `clusters`."""
    own = sorted({one.cluster for one in segments}, key=ranks.__getitem__)
    place = {cluster: number for number, cluster in enumerate(own)}
    return {
        "path": path,
        **asdict(seen),
        "clusters": [
            {"id": cluster, "name": describe(cluster, names), "colour": colour_of(cluster, ranks)} for cluster in own
        ],
        "segments": [
            [round(one.start_s, 3), round(one.end_s, 3), place[one.cluster], round(one.confidence, 4)]
            for one in segments
        ],
    }


def colour_of(cluster: int, ranks: Mapping[int, int]) -> str:
    """A light colour that dark words stand on, the same on all pages; grey for clusters of little time."""
    rank = ranks[cluster]
    if cluster < 0 or rank >= NUM_COLOURS:
        return "oklch(0.78 0 0)"
    return f"oklch({0.84 - 0.1 * (rank // 6):g} 0.12 {(30 + rank * 60 + 30 * (rank // 6)) % 360})"


def look(path: str, root: Path | None, folder: Path, page_folder: Path, duration_s: float, transcoded: bool) -> Seen:
    """Find out what can be shown and played of a recording, and draw it."""
    if root is None:
        return Seen(duration_s, why="the clips were prepared, and the recording is elsewhere")
    enclosure = Enclosure(root)
    if not enclosure.names(enclosure.path(path)):
        return Seen(duration_s, why="its path leads out of the media folder")
    source = Path(enclosure.path(path))
    try:
        info = probe(source, needs_picture=False)
        state = source.stat()
    except (MediaError, OSError) as error:
        return Seen(duration_s, why=f"the recording cannot be read ({getattr(error, 'detail', error)})")
    faults: list[str] = []
    (folder / "media").mkdir(parents=True, exist_ok=True)
    whole_s = max(info.duration_s, info.audio_s, duration_s)
    stem = folder / "media" / thumbnail_name("timeline 1", path, whole_s, state.st_size, state.st_mtime_ns)
    sheet = sound = None
    if info.width:
        planned = plan_sheet(info.duration_s, info.width / info.height)
        target = stem.with_suffix(".jpg")
        if _drawn(target, lambda: draw_sheet(source, info.duration_s, planned), "pictures", faults):
            sheet = {**asdict(planned), "height": HEIGHT, "length_s": info.duration_s, "src": _url(target, page_folder)}
    if info.audio_s:
        target = stem.with_name(f"{stem.name}-sound.jpg")
        if _drawn(target, lambda: draw_spectrogram(source, info.audio_s), "the spectrogram", faults):
            size = {"width": num_columns(info.audio_s), "height": BANDS}
            sound = {**size, "length_s": info.audio_s, "src": _url(target, page_folder)}
    why, media = playable(source) or "", source
    if why and transcoded:
        media = stem.with_suffix(".mp4")
        try:
            if not media.exists():
                transcode(source, media)
            why = ""
        except MediaError as error:
            why = f"{why}, and it cannot be transcoded ({error.detail})"
    url = None if why else _url(media, page_folder)
    return Seen(whole_s, url, bool(info.width), why, sheet, sound, faults)


def _drawn(target: Path, draw: Callable[[], Image.Image], what: str, faults: list[str]) -> bool:
    """Draw a picture unless it is there; whether it is there then."""
    if target.exists():
        return True
    try:
        picture = draw()
    except (MediaError, MemoryError) as error:
        faults.append(f"{what}: {getattr(error, 'detail', 'no memory')}")
        return False
    with write_atomically(target) as temporary:
        picture.save(temporary, "JPEG", quality=82)
    return True


def _row(
    path: str,
    segments: Sequence[Segment],
    names: Mapping[int, str | None],
    ranks: Mapping[int, int],
    url: str,
    seen: Seen,
) -> dict[str, Any]:
    """A recording in the list of recordings."""
    whole_s = max(seen.duration_s, 1e-9)
    longest = sorted(segments, key=lambda one: one.start_s - one.end_s)[:_BARS]
    time_s = _time_of(segments)
    mostly = sorted(time_s, key=lambda cluster: -time_s[cluster])[:3]
    return {
        "path": path,
        "url": url,
        "seconds": whole_s,
        "clock": clock(seen.duration_s),
        "num_segments": len(segments),
        "mostly": ", ".join(describe(cluster, names) for cluster in mostly),
        "bars": [
            {
                "x": round(1000 * one.start_s / whole_s, 2),
                "width": round(1000 * (one.end_s - one.start_s) / whole_s, 2),
                "colour": colour_of(one.cluster, ranks),
            }
            for one in sorted(longest, key=lambda one: one.start_s)
        ],
    }


def _time_of(segments: Iterable[Segment]) -> dict[int, float]:
    """Cluster -> seconds of its segments."""
    time_s: defaultdict[int, float] = defaultdict(float)
    for one in segments:
        time_s[one.cluster] += one.end_s - one.start_s
    return time_s


def clock(time_s: float) -> str:
    """A time such as 1:02:03, or 2:03."""
    minutes, seconds = divmod(round(time_s), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("selavi.results.timeline"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _render(environment: jinja2.Environment, template: str, target: Path, title: str, **values: Any) -> None:
    loader = environment.loader
    assert loader is not None
    style, script = (loader.get_source(environment, f"timeline.{kind}")[0] for kind in ("css", "js"))
    text = environment.get_template(template).render(
        title=title,
        style=Markup(style),  # our own files, none of the user's text
        script=Markup(script),
        policy=policy(style, script),
        **values,
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target, text)


def _url(target: Path, start: Path) -> str:
    """From a folder to a file, percent-encoded: no name is then taken for a query, a fragment or a scheme."""
    return quote(Path(os.path.relpath(target, start)).as_posix(), safe="/")
