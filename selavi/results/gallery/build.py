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

from selavi.media import MediaError, is_still
from selavi.results.evidence import Evidence
from selavi.results.gallery import compare_data, data
from selavi.results.gallery import media as links
from selavi.results.gallery.alike import ask_other_heads, find_pairs
from selavi.results.gallery.boxes import place_boxes
from selavi.results.gallery.columns import Columns
from selavi.results.gallery.layout import Method, place_points, points_of
from selavi.results.gallery.near import nearest_clips, rows_to_search
from selavi.results.gallery.overlays import draw_overlay, overlay_name
from selavi.results.gallery.page import write_page
from selavi.results.gallery.rows import ROWS_PART, write_queue, write_rows
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

NUM_WORDS = 3
"""Clips that stand for their cluster where there are no pictures."""
RunJobs = Callable[[Callable[[Any], str], Iterable[Any], int, str], Iterator[tuple[int, Any]]]
"""Calls a function on jobs, given their number and a purpose in words; gives the number of each job and what the
function returned, or, where that is no string, a fault with `reason` and `detail`."""


ALL_PICTURED = 2000
"""Clips of which every one has a thumbnail; of more those that are shown, and the page draws the others when it can."""


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
    is_empty: bool = False
    """There are no recordings: the run read nothing but vectors, or its media are gone."""


@dataclass(frozen=True)
class AboutRun:
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
    how: str = "found without labels"
    """How the clusters came about, in words."""


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
    notes: Sequence[str] = ()
    """What to know of the columns that are shown."""
    without_pictures: bool = False
    """There is nothing that thumbnails could be made of."""

    def lines(self) -> list[str]:
        """In words."""
        said = [f"thumbnails: {self.made:,} made, {self.kept:,} kept from before"]
        if self.without_pictures:
            said = ["thumbnails: none, for there are no recordings; --table shows what somebody knows of the clips"]
        said += [f"table:      {note}" for note in self.notes]
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
    about: AboutRun,
    source: MediaSource,
    *,
    places: Places | None = None,
    features: np.ndarray | None = None,
    method: Method = "pca",
    explain: Callable[[list[str]], Iterable[Evidence]] | None = None,
    num_explained: int = 4,
    maps: str = "contrast",
    worth: str = "",
    boxes: pa.Table | None = None,
    box_maps: str = "evidence",
    columns: Columns | None = None,
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
        places: how many clips of a cluster are shown in its rows, and have a thumbnail where there are more than
            ALL_PICTURED; None: all of them.
        features: (N, D), for the map, the nearest clusters and the odd clips; None where there are none.
        method: of the map.
        explain: gives the maps of clips, by id, under the chosen head.
        num_explained: the most typical clips of each of its clusters that have maps.
        maps: the kind of their pictures' maps, contrast or evidence.
        worth: what was measured of how well these point at things, in words; may be empty.
        boxes: boxes.COLUMNS, what maps point at under the chosen head, of any clips; None where there are none.
        box_maps: the kind of these maps, a key of selavi.localisation.maps.MAP_KINDS.
        columns: what a table says of the clips.
        run_jobs: runs the jobs.

    Raises:
        UsageError: a path leads out of the media root.
        ValueError: the chosen head is not there.
    """
    if about.chosen_head not in [head.head for head in heads]:
        raise ValueError(f"expected one of the heads {[head.head for head in heads]}, got {about.chosen_head}")
    selector = Selector(clips, places or Places(), features)
    writer = _Writer(out_dir, clips, heads, about, source, run_jobs, selector, columns, show_all=places is None)
    thumbnails = writer.make_thumbnails()
    overlays = writer.draw_overlays(explain, num_explained)
    placed = [] if boxes is None else place_boxes(boxes, writer.clips, writer.geometry)
    pictures = data.PictureNames(thumbnails, overlays, placed if any(placed) else None, box_maps, maps, worth)
    writer.write_comparisons()
    writer.write_members(pictures, writer.take_media())
    writer.write_search_and_labels()
    writer.write_rows(features)
    writer.write_map(features, method, thumbnails)
    writer.write_index(pictures)
    write_page(writer.report.page, about.title)
    writer.remove_stale(pictures)
    return writer.report


class _Writer:
    """Writes the parts of one gallery, and notes in its report what was done."""

    def __init__(
        self,
        out_dir: Path,
        clips: pa.Table,
        heads: Sequence[Head],
        about: AboutRun,
        source: MediaSource,
        run_jobs: RunJobs,
        selector: Selector,
        columns: Columns | None,
        *,
        show_all: bool,
    ) -> None:
        if source.without_files and source.mode == "transcode":  # what plays then is the piece alone
            place = clips.schema.get_field_index("start_s")
            clips = clips.set_column(place, "start_s", pa.array(np.zeros(len(clips))))
        self.out_dir, self.clips, self.heads, self.about, self.source = out_dir, clips, heads, about, source
        self.run_jobs, self.selector, self.columns = run_jobs, selector, columns
        self.clusters = {head.head: selector.select(head) for head in heads}
        self.shown = _shown(self.clusters, about.chosen_head, len(clips), show_all)
        self.pictured = _shown(self.clusters, about.chosen_head, len(clips), show_all or len(clips) <= ALL_PICTURED)
        self.states = _locate(clips, source)
        self.geometry = _geometry(clips, source.sample_rate)
        self.labelled = clips["label"].null_count < len(clips)
        self.has_map = False
        self.num_searched = 0
        self.kept: dict[int, np.ndarray | None] = {}
        self.nmi: dict[int, dict[str, float]] = {}
        self.paired: set[int] = set()
        notes = columns.notes if columns else ()
        self.report = GalleryReport(out_dir / "index.html", notes=notes, without_pictures=source.is_empty)
        self.folder = out_dir / "data"
        self.written: set[Path] = set()

    def make_thumbnails(self) -> np.ndarray:
        """Make the thumbnails; (N,) their names, empty where there is none."""
        names = np.zeros(len(self.clips), "S24")
        source = self.source
        if source.read is None or source.is_empty:
            return names
        is_refused = self._refuse(links.OUTSIDE, "refused", "a link out of the media folder")
        if not source.without_files:
            is_refused |= self._refuse(links.CHANGED, "changed", "not the file that was scanned")
        # The folder is known to be inside; a file that is missing fails by itself, and says so.
        rows = self.pictured[~is_refused]
        clips = self.clips.take(pa.array(rows))
        file_names = _file_names(f"thumbnail 1 {self.geometry} {source.without_files}", clips)

        def jobs() -> Iterator[ThumbnailJob]:
            columns = (clips[c].to_pylist() for c in ("path", "start_s", "duration_s", "width", "audio_state"))
            for name, row, path, start_s, duration_s, width, state in zip(
                file_names, rows.tolist(), *columns, strict=True
            ):
                target = _picture(self.out_dir, "thumbs", name, "jpg")
                begin_s = 0.0 if source.without_files else start_s  # shards hold a piece alone
                yield ThumbnailJob(
                    target, source.root / path, row, begin_s, duration_s or 1.0, bool(width), state == "ok"
                )

        work = partial(make_thumbnail, geometry=self.geometry, read=source.read)
        for number, outcome in self.run_jobs(work, jobs(), len(rows), "thumbnails"):
            if not isinstance(outcome, str):
                self._count(outcome.reason, clips["id"][number].as_py(), outcome.detail)
                continue
            names[rows[number]] = file_names[number]
            self.report.made += outcome == "made"
            self.report.kept += outcome == "kept"
        return names

    def _refuse(self, state: int, reason: str, detail: str) -> np.ndarray:
        """Which of the clips that have a picture have a state, noted as faults."""
        concerned: np.ndarray = self.states[self.pictured] == state
        for row in self.pictured[concerned].tolist():
            self._count(reason, self.clips["id"][row].as_py(), detail)
        return concerned

    def draw_overlays(
        self, explain: Callable[[list[str]], Iterable[Evidence]] | None, num_explained: int
    ) -> np.ndarray:
        """Draw the evidence for the most typical clips of the chosen head; (N,) the files' names."""
        names = np.zeros(len(self.clips), "S24")
        if explain is None:
            return names
        rows = _most_typical(self.clusters[self.about.chosen_head], num_explained)
        ids = self.clips["id"].take(pa.array(rows)).to_pylist()
        row_of = dict(zip(ids, rows.tolist(), strict=True))
        widths, heights = (pc.fill_null(self.clips[name], 0).to_numpy() for name in ("width", "height"))
        for evidence in explain(list(row_of)):
            row = row_of.get(evidence.id)
            if row is not None:
                width, height = int(widths[row]), int(heights[row])
                name = overlay_name(evidence, f"{self.geometry} {widths[row]} {heights[row]}")
                draw_overlay(_picture(self.out_dir, "evidence", name, "png"), evidence, self.geometry, width, height)
                names[row] = name
        return names

    def take_media(self) -> links.Links:
        """Look at the recordings that are shown, copy or transcode them."""
        states, source, mode = self.states, self.source, self.source.mode
        is_usable = states == links.PRESENT
        if mode == "transcode" and source.without_files:
            is_usable = states != links.OUTSIDE  # what is written comes from the shards
        rows = np.sort(self.shown[is_usable[self.shown]])
        unplayable, looked_at = self._look_at_media(rows)
        names = self._write_media(rows)
        num_missing = len(self.clips) - len(self.shown)
        warning = None if source.is_empty else links.describe(states, unplayable, len(rows), mode, num_missing)
        if source.without_files and mode == "link" and not (states == links.PRESENT).any():
            warning = (
                f"The run read prepared clips, and the recordings that they were made of are not in {source.root}: "
                "nothing plays. Export again with --media transcode to write playable clips."
            )
        self.report.media_warning = warning
        return links.Links(self.clips, source.root, self.out_dir, mode, states, names, unplayable, looked_at)

    def _look_at_media(self, rows: np.ndarray) -> tuple[dict[int, str], np.ndarray]:
        """Why browsers cannot play clips, by row, and (N,) which clips were looked at."""
        unplayable: dict[int, str] = {}
        looked_at = np.zeros(len(self.clips), bool)
        if self.source.read is None or self.source.mode == "transcode":
            return unplayable, looked_at
        first, recording = self._by_file(rows)
        jobs = self._media_jobs(first, [self.out_dir / "media"] * len(first))
        for number, outcome in self.run_jobs(links.look, jobs, len(first), "looking at media"):
            pieces = rows[recording == number]
            looked_at[pieces] = True
            if not isinstance(outcome, str) or outcome:  # a file that cannot be opened does not play either
                why = outcome if isinstance(outcome, str) else outcome.reason
                unplayable |= dict.fromkeys(pieces.tolist(), why)
        return unplayable, looked_at

    def _by_file(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first clip of each file that some clips play, and (len(rows),) the number of each one's file."""
        is_whole = self.source.without_files and self.source.mode == "transcode"  # shards hold each piece alone
        names = self.clips["id" if is_whole else "path"].combine_chunks().take(pa.array(rows))
        numbers = names.dictionary_encode().indices.to_numpy()
        _, first = np.unique(numbers, return_index=True)
        return rows[first], numbers

    def _write_media(self, rows: np.ndarray) -> np.ndarray:
        """Copy or transcode recordings; (N,) the files' names, empty where there is none.  Others are removed."""
        names = np.zeros(len(self.clips), "S24")
        folder, mode = self.out_dir / "media", self.source.mode
        kept: set[Path] = set()
        if mode != "link":
            first, recording = self._by_file(rows)
            clips = self.clips.take(pa.array(first))
            file_names = _file_names(f"media 1 {mode}", clips)
            targets = [
                folder / links.media_file(name, path, mode)
                for name, path in zip(file_names, clips["path"].to_pylist(), strict=True)
            ]
            write = self.source.write if mode == "transcode" else links.copy_file
            jobs = self._media_jobs(first, targets)
            for number, outcome in self.run_jobs(write, jobs, len(first), f"{mode} media"):
                if isinstance(outcome, str):
                    names[rows[recording == number]] = file_names[number]
                    kept.add(targets[number])
                else:
                    self._count(outcome.reason, clips["id"][number].as_py(), outcome.detail)
        if folder.exists():
            suffixes = {path.suffix for path in folder.iterdir() if len(path.stem) == 24} | {".tmp"}
            self.report.removed += data.remove_stale(folder, sorted(suffixes), kept)
        return names

    def _media_jobs(self, rows: np.ndarray, targets: Sequence[Path]) -> Iterator[links.MediaJob]:
        paths = self.clips["path"].take(pa.array(rows)).to_pylist()
        for path, target, row in zip(paths, targets, rows.tolist(), strict=True):
            yield links.MediaJob(self.source.root / path, target, row)

    def write_comparisons(self) -> None:
        """Write which clusters are alike, and each head's clusters crossed with those of the others."""
        for head in self.heads:
            clusters = self.clusters[head.head]
            numbers = [cluster.cluster for cluster in clusters.clusters]
            others = ask_other_heads(head, self.heads)
            crossings = others.crossings if others else {}
            self.kept[head.head] = others.kept if others else None
            self.nmi[head.head] = compare_data.nmi_of(crossings)
            for other, crossing in crossings.items():
                self.written.add(compare_data.write_crossing(self.folder, head.head, other, numbers, crossing))
            pairs = find_pairs(clusters, others)
            if pairs is not None:
                self.paired.add(head.head)
                self.written.add(compare_data.write_pairs(self.folder, head.head, numbers, pairs))

    def write_members(self, pictures: data.PictureNames, media_of: data.MediaOf) -> None:
        """Write the clips of every cluster."""
        for head in self.heads:
            clusters = self.clusters[head.head]
            is_chosen = head.head == self.about.chosen_head
            for cluster in clusters.clusters:
                files = data.write_members(
                    self.folder,
                    head,
                    clusters,
                    cluster,
                    self.clips,
                    pictures,
                    media_of,
                    is_chosen,
                    self.columns,
                    self.kept[head.head],
                )
                self.written |= set(files)

    def write_search_and_labels(self) -> None:
        """Write what the page searches, and where clips have labels how they lie in the clusters."""
        self.written |= set(data.write_ids(self.folder, self.clips, self.heads, self.columns))
        if self.labelled:
            for head in self.heads:
                self.written.add(data.write_labels(self.folder, head.head, self.selector.label_table(head)))

    def write_rows(self, features: np.ndarray | None) -> None:
        """Write what the large view of a clip and the work queue read."""
        near = None
        if features is not None:
            chosen = self.about.chosen_head
            in_rows = _shown({chosen: self.clusters[chosen]}, chosen, len(self.clips), everything=False)
            rows = rows_to_search(in_rows, *features.shape)
            near = rows, nearest_clips(features, rows)
            self.num_searched = len(rows)
        with_rates = self.source.mode != "transcode"
        files = write_rows(self.folder, self.clips, self.heads, self.clusters, near, with_rates=with_rates)
        self.written |= set(files)
        for head in self.heads:
            self.written.add(write_queue(self.folder, head, self.clusters[head.head], self.selector))

    def write_map(self, features: np.ndarray | None, method: Method, thumbnails: np.ndarray) -> None:
        """Draw the map, where there are features and a method is asked for."""
        self.report.no_map = self.about.no_map
        if features is None or method == "none":
            return
        rows = points_of(self.clusters[self.about.chosen_head])
        drawn = place_points(features[rows], method, self.about.seed)
        if drawn is None:
            self.report.no_map = "fewer than three clips have different features"
            return
        positions, explained = drawn
        self.report.no_map = None
        self.has_map = True
        path = data.write_map(self.folder, rows, positions, self.clips, self.heads, thumbnails, explained, self.columns)
        self.written.add(path)
        for head in self.heads:
            self.written.add(compare_data.write_colours(self.folder, head, self.kept[head.head], rows))
        if self.labelled:
            self.written.add(compare_data.write_label_colours(self.folder, self.clips["label"], rows))

    def write_index(self, pictures: data.PictureNames) -> None:
        """Write what the page loads first."""
        about = self.about
        index = {
            "format": data.FORMAT,
            "key": _key(about, self.heads),
            "title": about.title,
            "split": about.split,
            "made": time.strftime("%Y-%m-%dT%H:%M:%S"),
            "numClips": len(self.clips),
            "run": about.run,
            "tile": {
                "width": self.geometry.width,
                "height": self.geometry.height,
                "frames": self.geometry.frames,
                "spectrogram": self.geometry.spectrogram,
            },
            "pictures": all(is_still(Path(path)) for path in self.clips["path"].to_pylist()),
            "chosenHead": about.chosen_head,
            "how": about.how,
            "media": self.source.mode,
            "mediaWarning": self.report.media_warning,
            "figures": list(about.figures),
            "labelled": self.labelled,
            "heads": [self._describe_head(place, pictures.thumbnails) for place in range(len(self.heads))],
            "names": list(about.names),
            "hasMap": self.has_map,
            "noMap": self.report.no_map,
            "hasEvidence": bool((pictures.evidence != b"").any()),
            "maps": pictures.maps,
            "worth": pictures.worth,
            "hasBoxes": pictures.boxes is not None,
            "boxMaps": pictures.box_maps,
            "columns": list(self.columns.names) if self.columns else [],
            "words": self.source.is_empty,
            "membersPart": data.PART,
            "rowsPart": ROWS_PART,
            "numSearched": self.num_searched,
        }
        self.written.add(data.write_call(self.folder / "index.js", "selavi.index", index))

    def _describe_head(self, place: int, thumbnails: np.ndarray) -> dict[str, Any]:
        clusters = self.clusters[self.heads[place].head]
        agreement = self.about.agreement_of_heads
        return {
            "head": clusters.head,
            "agreement": agreement[place] if agreement else None,
            "nmi": self.nmi[clusters.head],
            "hasPairs": clusters.head in self.paired,
            "clusters": [
                data.describe_cluster(cluster, clusters.clips(cluster), thumbnails, self.columns)
                | self._words(clusters.clips(cluster)[cluster.typical])
                for cluster in clusters.clusters
            ],
        }

    def _words(self, rows: np.ndarray) -> dict[str, Any]:
        """What a cluster's card shows where there are no pictures: the first text, or the id, of typical clips."""
        if not self.source.is_empty:
            return {}
        ids = self.clips["id"].take(pa.array(rows[:NUM_WORDS])).to_pylist()
        texts = self.columns.rows(rows[:NUM_WORDS]) if self.columns else [[] for _ in ids]
        return {"words": [next(filter(None, cells), clip_id) for cells, clip_id in zip(texts, ids, strict=True)]}

    def remove_stale(self, pictures: data.PictureNames) -> None:
        """Remove what an earlier gallery left."""
        self.report.removed += data.remove_stale(self.folder, [".js", ".tmp"], self.written)
        for kind, names, suffix in (("thumbs", pictures.thumbnails, "jpg"), ("evidence", pictures.evidence, "png")):
            kept = {_picture(self.out_dir, kind, name.decode(), suffix) for name in names[names != b""].tolist()}
            self.report.removed += data.remove_stale(self.out_dir / kind, [f".{suffix}", ".tmp"], kept)

    def _count(self, reason: str, clip_id: str, detail: str) -> None:
        self.report.faults[reason] += 1
        self.report.examples.setdefault(reason, f"{clip_id!a}: {detail}")


def _locate(clips: pa.Table, source: MediaSource) -> np.ndarray:
    """(N,) the state of each clip's file, of which a run of vectors has none."""
    if source.is_empty:
        return np.full(len(clips), links.MISSING, np.uint8)
    return links.locate(clips, source.root, source.allow_links)


def _shown(clusters: Mapping[int, HeadClusters], chosen: int, num_clips: int, everything: bool) -> np.ndarray:
    """Clips that are shown under any head, those of the chosen head first, each once."""
    heads = sorted(clusters.values(), key=lambda head: head.head != chosen)
    rows = [head.clips(cluster)[cluster.shown] for head in heads for cluster in head.clusters]
    if everything:
        rows.append(np.arange(num_clips))
    joined = np.concatenate(rows)
    _, first = np.unique(joined, return_index=True)
    return joined[np.sort(first)]


def _geometry(clips: pa.Table, sample_rate: int) -> Geometry:
    sizes = clips.select(["width", "height"]).filter(pc.greater(clips["width"], 0))
    ratios = sizes["width"].to_numpy() / sizes["height"].to_numpy()
    has_sound = bool(pc.any(pc.equal(clips["audio_state"], "ok")).as_py())
    return Geometry.of(ratios, len(ratios) > 0, has_sound, sample_rate)


def _most_typical(head: HeadClusters, count: int) -> np.ndarray:
    return np.concatenate([head.clips(cluster)[cluster.typical[:count]] for cluster in head.clusters])


def _file_names(kind: str, clips: pa.Table) -> list[str]:
    """A file name for each clip that changes when its recording does."""
    columns = (clips[name].to_pylist() for name in ("id", "start_s", "bytes", "mtime_ns"))
    return [thumbnail_name(kind, *facts) for facts in zip(*columns, strict=True)]


def _picture(out_dir: Path, folder: str, name: str, suffix: str) -> Path:
    return out_dir / folder / name[:2] / f"{name}.{suffix}"


def _key(about: AboutRun, heads: Sequence[Head]) -> str:
    """The page keeps names under this: another run, split or training has another one."""
    digest = hashlib.sha256(f"{about.run}\x1f{about.split}".encode())
    for head in heads:
        digest.update(np.ascontiguousarray(head.cluster, np.int32).tobytes())
    return digest.hexdigest()[:16]
