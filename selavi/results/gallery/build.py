"""Write a gallery: thumbnails and media first, then the data, then the page, then remove what an earlier one left."""

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from selavi.media import MediaError
from selavi.results.evidence import Evidence
from selavi.results.gallery import data
from selavi.results.gallery import media as links
from selavi.results.gallery.layout import Method, place_points, points_of
from selavi.results.gallery.overlays import draw_overlay, overlay_name
from selavi.results.gallery.page import write_page
from selavi.results.gallery.select import Head, HeadClusters, Places, Selector
from selavi.results.gallery.thumbnails import (
    SAMPLE_RATE,
    Geometry,
    Reader,
    ThumbnailJob,
    make_thumbnail,
    read_file,
    thumbnail_name,
)

RunJobs = Callable[[Callable[[Any], str], Iterable[Any], int, str], Iterator[tuple[int, Any]]]
"""Calls a function on so many jobs, for a purpose (in words); gives the number of each job and what the function
returned, or, where that is no string, a fault with `reason` and `detail`."""


@dataclass(frozen=True)
class MediaSource:
    """Where pictures, sound and recordings come from."""

    root: Path
    """The folder that paths start from."""
    mode: links.Mode = "link"
    allow_links: bool = False
    read: Reader | None = read_file
    """Decodes for thumbnails; None for a gallery without pictures."""
    without_files: bool = False
    """The reader, and `write` for --media transcode, need no media files: they have prepared clips."""
    write: links.Writer = links.transcode_file
    """Writes what --media transcode asks for."""
    sample_rate: int = SAMPLE_RATE
    """Rate of the sound that thumbnails show; see Geometry."""


@dataclass(frozen=True)
class About:
    """What the page says of the run."""

    title: str
    run: str
    """Its folder."""
    split: str
    chosen_head: int
    figures: Sequence[tuple[str, str]] = ()
    names: Sequence[Mapping[str, Any]] = ()
    """Rows of names.csv, as selavi.results.naming has them."""
    agreement_of_heads: Sequence[float | None] = ()
    """How much each head agrees with the others; may be empty."""
    seed: int = 0
    no_map: str | None = None
    """Why there are no features, in words."""


@dataclass
class GalleryReport:
    """What was done."""

    page: Path
    made: int = 0
    kept: int = 0
    """Thumbnails that were there."""
    removed: int = 0
    """Files of an earlier gallery."""
    faults: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """Why pictures are missing, by reason, with a clip each."""
    media_warning: str | None = None
    no_map: str | None = None
    """Why there is no map, in words."""

    def lines(self) -> list[str]:
        """In words."""
        said = [f"thumbnails: {self.made:,} made, {self.kept:,} kept from before"]
        if self.faults:
            reasons = ", ".join(
                f"{n:,} {reason} (such as {self.examples[reason]})" for reason, n in self.faults.items()
            )
            said.append(f"            {sum(self.faults.values()):,} clips have a placeholder: {reasons}")
        said += [f"media:      {self.media_warning}"] if self.media_warning else []
        return [*said, *([f"no map:     {self.no_map}"] if self.no_map else [])]


def in_process(function: Callable[[Any], str], jobs: Iterable[Any], total: int, what: str) -> Iterator[tuple[int, Any]]:
    """A RunJobs without processes, limits or progress."""
    for number, job in enumerate(jobs):
        try:
            yield number, function(job)
        except MediaError as fault:
            yield number, fault


def write_gallery(
    out_dir: Path,
    clips: pa.Table,
    heads: Sequence[Head],
    about: About,
    source: MediaSource,
    *,
    places: Places | None = None,
    features: np.ndarray | None = None,
    method: Method = "pca",
    explain: Callable[[list[str]], Iterable[Evidence]] | None = None,
    num_explained: int = 4,
    run_jobs: RunJobs = in_process,
) -> GalleryReport:
    """Write a gallery's folder, as docs/gallery.md describes it.

    Thumbnails and media that are there are kept, so an export that was killed goes on where it was.

    Args:
        out_dir: made where it does not exist.
        clips: of select.arrange.
        heads: of select.arrange.
        about: what the page says of the run.
        source: where pictures and media come from.
        places: how many clips of a cluster have a thumbnail; None: all clips have one.
        features: (N, D), for the map, the nearest clusters and the odd clips; None where there are none.
        method: of the map.
        explain: gives the evidence for clips, by id, under the chosen head.
        num_explained: the most typical clips of each of its clusters that are explained.
        run_jobs: runs the jobs.

    Raises:
        UsageError: a path leads out of the media root.
        ValueError: the chosen head is not there.
    """
    if about.chosen_head not in [head.head for head in heads]:
        raise ValueError(f"expected one of the heads {[head.head for head in heads]}, got {about.chosen_head}")
    selector = Selector(clips, places or Places(), features)
    clusters_of = {head.head: selector.select(head) for head in heads}
    shown = _shown(clusters_of, about.chosen_head, len(clips), places is None)
    states = links.locate(clips, source.root, source.allow_links)
    report = GalleryReport(out_dir / "index.html")

    geometry = _geometry(clips, source.sample_rate)
    thumbnails = _thumbnails(out_dir, clips, shown, states, geometry, source, run_jobs, report)
    overlays = np.zeros(len(clips), "S24")
    if explain is not None:
        rows = _most_typical(clusters_of[about.chosen_head], num_explained)
        _draw_overlays(out_dir, clips, geometry, rows, explain, overlays)
    media_of = _media(out_dir, clips, shown, states, source, run_jobs, report)

    folder, written = out_dir / "data", set[Path]()
    pictures = data.Pictures(thumbnails, overlays)
    for head in heads:
        for cluster in clusters_of[head.head].clusters:
            chosen = head.head == about.chosen_head
            written |= set(
                data.write_members(folder, head, clusters_of[head.head], cluster, clips, pictures, media_of, chosen)
            )
    written |= set(data.write_ids(folder, clips, heads))
    labelled = clips["label"].null_count < len(clips)
    if labelled:
        written |= {data.write_labels(folder, head.head, selector.label_table(head)) for head in heads}
    no_map = about.no_map
    drawn = None
    if features is not None and method != "none":
        rows = points_of(clusters_of[about.chosen_head])
        drawn = place_points(features[rows], method, about.seed)
        no_map = None if drawn else "fewer than three clips have different features"
    report.no_map = None if drawn else no_map
    if drawn:
        written.add(data.write_map(folder, rows, drawn[0], clips, heads, thumbnails, drawn[1]))
    index = {
        "format": data.FORMAT,
        "key": _key(about, heads),
        "title": about.title,
        "split": about.split,
        "made": time.strftime("%Y-%m-%dT%H:%M:%S"),
        "numClips": len(clips),
        "numRun": about.run,
        "tile": {
            "width": geometry.width,
            "height": geometry.height,
            "frames": geometry.frames,
            "spectrogram": geometry.spectrogram,
        },
        "chosenHead": about.chosen_head,
        "media": source.mode,
        "mediaWarning": report.media_warning,
        "figures": list(about.figures),
        "labelled": labelled,
        "heads": [
            {
                "head": head.head,
                "agreement": about.agreement_of_heads[place] if about.agreement_of_heads else None,
                "clusters": [
                    data.describe_cluster(cluster, clusters_of[head.head].clips(cluster), thumbnails)
                    for cluster in clusters_of[head.head].clusters
                ],
            }
            for place, head in enumerate(heads)
        ],
        "names": list(about.names),
        "hasMap": drawn is not None,
        "noMap": report.no_map,
        "hasEvidence": bool((overlays != b"").any()),
    }
    written.add(data.write_call(folder / "index.js", "selavi.index", index))
    write_page(report.page, about.title)
    report.removed = data.remove_stale(folder, [".js", ".tmp"], written)
    for kind, names, suffix in (("thumbs", thumbnails, "jpg"), ("evidence", overlays, "png")):
        kept = {_picture(out_dir, kind, name.decode(), suffix) for name in names[names != b""].tolist()}
        report.removed += data.remove_stale(out_dir / kind, [f".{suffix}", ".tmp"], kept)
    return report


def _shown(clusters_of: Mapping[int, HeadClusters], chosen: int, num_clips: int, everything: bool) -> np.ndarray:
    """Clips that are shown under any head, those of the chosen head first, each once."""
    heads = sorted(clusters_of.values(), key=lambda head: head.head != chosen)
    rows = [head.clips(cluster)[cluster.shown] for head in heads for cluster in head.clusters]
    if everything:
        rows.append(np.arange(num_clips))
    _, first = np.unique(joined := np.concatenate(rows), return_index=True)
    return joined[np.sort(first)]


def _geometry(clips: pa.Table, sample_rate: int) -> Geometry:
    sizes = clips.select(["width", "height"]).filter(pc.greater(clips["width"], 0))
    ratios = sizes["width"].to_numpy() / sizes["height"].to_numpy()
    has_sound = bool(pc.any(pc.equal(clips["audio_state"], "ok")).as_py())
    return Geometry.of(ratios, len(ratios) > 0, has_sound, sample_rate)


def _thumbnails(
    out_dir: Path,
    clips: pa.Table,
    shown: np.ndarray,
    states: np.ndarray,
    geometry: Geometry,
    source: MediaSource,
    run_jobs: RunJobs,
    report: GalleryReport,
) -> np.ndarray:
    """Make the thumbnails; (N,) their names, empty where there is none."""
    names = np.zeros(len(clips), "S24")
    if source.read is None:
        return names
    for row in shown[states[shown] == links.OUTSIDE].tolist():
        _count(report, "refused", clips["id"][row].as_py(), "a link out of the media folder")
    # The folder is known to be inside; a file that is missing fails by itself, and says so.
    rows = shown[states[shown] != links.OUTSIDE]
    rows_shown = clips.take(pa.array(rows))
    kind = f"thumbnail 1 {geometry} {source.without_files}"
    name_of_row = [
        thumbnail_name(kind, *facts)
        for facts in zip(*(rows_shown[c].to_pylist() for c in ("id", "start_s", "bytes", "mtime_ns")), strict=True)
    ]

    def jobs() -> Iterator[ThumbnailJob]:
        columns = (rows_shown[c].to_pylist() for c in ("path", "start_s", "duration_s", "width", "audio_state"))
        for name, row, path, start_s, duration_s, width, state in zip(
            name_of_row, rows.tolist(), *columns, strict=True
        ):
            target = _picture(out_dir, "thumbs", name, "jpg")
            seconds = duration_s if duration_s else 1.0
            yield ThumbnailJob(target, source.root / path, row, start_s, seconds, bool(width), state == "ok")

    work = partial(make_thumbnail, geometry=geometry, read=source.read)
    for number, outcome in run_jobs(work, jobs(), len(rows), "thumbnails"):
        if isinstance(outcome, str):
            names[rows[number]] = name_of_row[number]
            report.made, report.kept = report.made + (outcome == "made"), report.kept + (outcome == "kept")
        else:
            _count(report, outcome.reason, rows_shown["id"][number].as_py(), outcome.detail)
    return names


def _most_typical(head: HeadClusters, count: int) -> np.ndarray:
    return np.concatenate([head.clips(cluster)[cluster.typical[:count]] for cluster in head.clusters])


def _draw_overlays(
    out_dir: Path,
    clips: pa.Table,
    geometry: Geometry,
    rows: np.ndarray,
    explain: Callable[[list[str]], Iterable[Evidence]],
    names: np.ndarray,
) -> None:
    """Draw the evidence for some clips, and put the files' names into (N,) `names`."""
    chosen = clips.take(pa.array(rows))
    row_of = dict(zip(chosen["id"].to_pylist(), rows.tolist(), strict=True))
    width, height = (pc.fill_null(clips[name], 0).to_numpy() for name in ("width", "height"))
    for evidence in explain(list(row_of)):
        row = row_of.get(evidence.id)
        if row is not None:
            name = overlay_name(evidence, f"{geometry} {width[row]} {height[row]}")
            draw_overlay(
                _picture(out_dir, "evidence", name, "png"), evidence, geometry, int(width[row]), int(height[row])
            )
            names[row] = name


def _media(
    out_dir: Path,
    clips: pa.Table,
    shown: np.ndarray,
    states: np.ndarray,
    source: MediaSource,
    run_jobs: RunJobs,
    report: GalleryReport,
) -> links.Links:
    """Look at the recordings, copy or transcode them; a part of this takes minutes, and is kept."""
    folder, mode = out_dir / "media", source.mode
    names, looked_at = np.zeros(len(clips), "S24"), np.zeros(len(clips), bool)
    unplayable: dict[int, str] = {}
    usable = (states != links.OUTSIDE) if mode == "transcode" and source.without_files else (states == links.PRESENT)
    rows = np.sort(shown[usable[shown]])
    paths = clips["path"].take(pa.array(rows)).to_pylist()
    if source.read is not None and mode != "transcode":
        jobs = (links.MediaJob(source.root / path, folder, row) for path, row in zip(paths, rows.tolist(), strict=True))
        for number, outcome in run_jobs(links.look, jobs, len(rows), "looking at media"):
            looked_at[rows[number]] = True
            if not isinstance(outcome, str) or outcome:  # a file that cannot be opened does not play either
                unplayable[int(rows[number])] = outcome if isinstance(outcome, str) else outcome.reason
    kept: set[Path] = set()
    if mode != "link":
        facts = clips.take(pa.array(rows))
        columns = (facts[c].to_pylist() for c in ("id", "start_s", "bytes", "mtime_ns"))
        name_of_row = [thumbnail_name(f"media 1 {mode}", *of_row) for of_row in zip(*columns, strict=True)]
        targets = [folder / links.media_file(name, path, mode) for name, path in zip(name_of_row, paths, strict=True)]
        jobs = (
            links.MediaJob(source.root / path, target, row)
            for path, target, row in zip(paths, targets, rows.tolist(), strict=True)
        )
        write = source.write if mode == "transcode" else links.copy_file
        for number, outcome in run_jobs(write, jobs, len(rows), f"{mode} media"):
            if isinstance(outcome, str):
                names[rows[number]] = name_of_row[number]
                kept.add(targets[number])
            else:
                _count(report, outcome.reason, facts["id"][number].as_py(), outcome.detail)
    if folder.exists():
        own = {path.suffix for path in folder.iterdir() if len(path.stem) == 24} | {".tmp"}
        report.removed += data.remove_stale(folder, sorted(own), kept)
    without = len(clips) - len(shown)
    report.media_warning = links.describe(states, unplayable, len(rows), mode, without)
    if source.without_files and mode == "link" and not (states == links.PRESENT).any():
        report.media_warning = (
            f"The run read prepared clips, and the recordings that they were made of are not in {source.root}: "
            "nothing plays. Export again with --media transcode to write playable clips."
        )
    return links.Links(clips, source.root, out_dir, mode, states, names, unplayable, looked_at)


def _count(report: GalleryReport, reason: str, clip_id: str, detail: str) -> None:
    report.faults[reason] += 1
    report.examples.setdefault(reason, f"{clip_id!a}: {detail}")


def _picture(out_dir: Path, folder: str, name: str, suffix: str) -> Path:
    return out_dir / folder / name[:2] / f"{name}.{suffix}"


def _key(about: About, heads: Sequence[Head]) -> str:
    """The page keeps names under this: another run, split or training has another one."""
    digest = hashlib.sha256(f"{about.run}\x1f{about.split}".encode())
    for head in heads:
        digest.update(np.ascontiguousarray(head.cluster, np.int32).tobytes())
    return digest.hexdigest()[:16]
