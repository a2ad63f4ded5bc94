"""Official lists: which of the files found are a data set's, and their splits and labels.

    manifest, told = apply_list(manifest, config.data.list, config.data.source)    # told is "" without a list
    ... judge the manifest ...
    told = describe_list(manifest)                                                 # again "" without a list

One module of one format each; what they share is in listing.py, and join.py finds the files.
"""

import json
import os
import re
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.cut import as_pieces
from datamodules.index.layout import METADATA_KEY as LAYOUT_KEY
from datamodules.index.layout import split_of
from datamodules.index.sources.ave import AVE
from datamodules.index.sources.folder import FOLDER
from datamodules.index.sources.hmdb51 import HMDB51
from datamodules.index.sources.join import SEVERAL, Join, folded, has_clip_of, join
from datamodules.index.sources.kinetics import KINETICS
from datamodules.index.sources.kinetics_sounds import KINETICS_SOUNDS, selavi_classes
from datamodules.index.sources.listing import ListFormat, Listing, ListSample, take_sample
from datamodules.index.sources.spans import find_spans, has_spans
from datamodules.index.sources.table import TABLE
from datamodules.index.sources.ucf101 import UCF101
from datamodules.index.sources.vggsound import VGGSOUND
from selavi.errors import UsageError
from selavi.filesystem import look
from selavi.ids import explain_missing
from selavi.runs.manifest import media_root

# In the order that `auto` tries them: a table with a path column is what most lists are as well.
SOURCES: dict[str, ListFormat] = {
    "ave": AVE,
    "ucf101": UCF101,
    "hmdb51": HMDB51,
    "kinetics": KINETICS,
    "vggsound": VGGSOUND,
    "kinetics_sounds": KINETICS_SOUNDS,
    "folder": FOLDER,
    "table": TABLE,
}
FOLDS = {"ucf101": r"list0([123])\.txt", "hmdb51": r"_split([123])\.txt"}
METADATA_KEY = b"list"
NUM_EXAMPLES = 3
MOST_EXPLAINED = 100_000
"""Files that are compared letter by letter with names that have none."""


def apply_list(manifest: pa.Table, list_path: str, source: str) -> tuple[pa.Table, str]:
    """Keep the files that a list names, with the list's labels, splits and ids; what it does not say stays.

    A clip is used once: of several files the one without a fault, then the one in a folder of the listed label, then
    of the listed split, then the first by path.  Of several rows that name a clip, the one whose label is the file's
    folder counts, else the first.

    Args:
        manifest: as scanned, before it is judged; or files as listed, whose status is null where it is not known.
        list_path: a file, or several as a pattern (`.../*list01.txt`); "": no list.
        source: `auto` or a key of SOURCES.  Without a list, `kinetics_sounds` keeps SeLaVi's 32 classes.

    Where a list of paths has times, each of its rows is a clip: a span of a file.  So it is with a list of YouTube
    clips where a file is named with the id alone and is longer than a clip: it is the recording.

    Returns:
        The manifest, ordered by id, or by file and time, with the list's counts in its metadata; and a sentence that
        says what the list was taken for, how many of its clips have a file, and what was left out; "" without a list.

    Raises:
        UsageError: the list cannot be read or is of no known format, or none of its clips has a file.
    """
    if not list_path and source in ("auto", "folder"):
        return manifest, ""
    name, source, listing = read_list(list_path, source)
    subject = f"{name}, taken for {SOURCES[source].title}" if list_path else name
    if not len(listing.rows):
        raise UsageError(f"{subject}, names no clip; download the list again or name another one as data.list")
    root = str(media_root(manifest))
    joined = join(listing, manifest["path"], manifest["label"], root, _lengths(manifest))
    chosen = np.flatnonzero(joined.row_of_file >= 0)
    if listing.by != "class":
        chosen = _one_file_a_clip(manifest, listing, joined)
    rows = joined.row_of_file[chosen]
    spans = find_spans(manifest, listing, joined, chosen) if has_spans(listing, joined) else None
    with_file = spans.with_file if spans else rows
    named = np.flatnonzero(joined.clip_of_row == np.arange(len(joined.clip_of_row)))
    missing = named[~has_clip_of(joined.clip_of_row, with_file)[named]]
    examples = listing.rows["name"].take(missing[:NUM_EXAMPLES]).to_pylist()
    things = "classes" if listing.by == "class" else "clips"
    similar = _similar(manifest, listing, joined, missing)
    if not len(rows):
        raise UsageError(
            f"{subject}: none of its {len(named):,} {things} is in {root}; the list names {', '.join(examples)}, the "
            f"folder has {', '.join(manifest['path'][:NUM_EXAMPLES].to_pylist())}. Point data.root at the files of "
            f"this list, or name another list or format (data.list, data.source){similar}"
        )
    facts = {
        "name": name,
        "by": listing.by,
        "listed": len(rows) if listing.by == "class" else len(named),
        "missing": 0 if listing.by == "class" else len(missing),
        "examples": examples,
    }
    several = int((joined.row_of_file == SEVERAL).sum())
    copies = int((joined.row_of_file >= 0).sum()) - len(chosen)
    sentences = [f"{subject}: {len(named) - len(missing):,} of {len(named):,} {things} have a file"]
    if len(missing):
        sentences.append(f"without one: {len(missing):,} (such as {', '.join(examples)}){similar}")
    for meaning, count in (
        ("rows that name one again", 0 if spans else len(listing.rows) - len(named)),
        ("found in another Unicode form", joined.num_respelt),
        ("second copies of a clip, not used", copies),
        ("files that fit several clips, not used", several),
        ("files that are not in the list", len(manifest) - len(chosen) - copies - several),
    ):
        sentences += [f"{meaning}: {count:,}"] if count else []
    sentences += listing.notes
    if spans is None:
        return _label(manifest, listing, chosen, rows, facts), "; ".join(sentences)
    sentences.append(spans.note)
    facts["listed"] = len(spans.rows) + len(missing)
    pieces = as_pieces(manifest, spans.files, spans.start_s, spans.end_s)
    everything = np.arange(len(pieces))
    return _label(pieces, listing, everything, spans.rows, facts), "; ".join(sentences)


def _lengths(manifest: pa.Table) -> np.ndarray:
    """Seconds of each file, (n,); NaN where nobody has looked."""
    lengths: np.ndarray = pc.fill_null(manifest["duration_s"], np.nan).to_numpy()
    return lengths


def _similar(manifest: pa.Table, listing: Listing, joined: Join, missing: np.ndarray) -> str:
    """Which names without a file are there in another spelling; "" where none is."""
    if listing.by != "path" or not len(missing):
        return ""
    names = [_file_name(name) for name in listing.rows["name"].take(missing[:MOST_EXPLAINED]).to_pylist()]
    unused = manifest["path"].filter(pa.array(joined.row_of_file < 0))[:MOST_EXPLAINED]
    explained = explain_missing(names, [_file_name(path) for path in unused.to_pylist()])
    return f"; {explained}" if explained else ""


def _file_name(path: str) -> str:
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]


def describe_list(manifest: pa.Table) -> str:
    """Say how many of a list's clips a judged manifest can use; "" where no list was applied.

    Example: using 181,204 of 197,957 clips of vggsound.csv: 16,000 without a file (such as ---g-f_I2yQ_1), 753 that
    cannot be used (such as train/fan/4abcdefghij_30.mp4: corrupt)

    Args:
        manifest: all rows that apply_list returned, with their status.
    """
    written = (manifest.schema.metadata or {}).get(METADATA_KEY)
    if written is None:
        return ""
    facts = json.loads(written)
    bad = manifest.filter(pc.not_equal(manifest["status"], "ok"))
    text = f"using {len(manifest) - len(bad):,} of {facts['listed']:,} clips of {facts['name']}"
    reasons = []
    if facts["missing"]:
        reasons.append(f"{facts['missing']:,} without a file (such as {facts['examples'][0]})")
    if len(bad):
        reasons.append(f"{len(bad):,} that cannot be used (such as {bad['path'][0]}: {bad['status'][0]})")
    return text + (": " + ", ".join(reasons) if reasons else "")


def read_list(list_path: str, source: str) -> tuple[str, str, Listing]:
    """Read a list of one file or several.

    Returns:
        Its name, its format (a key of SOURCES) and its rows.

    Raises:
        UsageError: it cannot be read, is of no known format, or its files do not belong together.
    """
    if not list_path and source == "kinetics_sounds":
        return "SeLaVi's Kinetics-Sounds", source, selavi_classes()
    samples = [take_sample(path) for path in _files(list_path)]
    sources = {source} if source != "auto" else {recognise(sample) for sample in samples}
    if len(sources) > 1:
        raise UsageError(f"data.list={list_path} names files of several formats: {', '.join(sorted(sources))}")
    (source,) = sources
    parquet = [sample.path for sample in samples if sample.parquet_columns is not None]
    if parquet and source != "table":
        raise UsageError(f"data.list={parquet[0]} is Parquet, data.source={source} is text; set data.source=table")
    _check_folds(list_path, source, samples)
    listings = [SOURCES[source].read(sample) for sample in samples]
    if len({listing.by for listing in listings}) > 1:
        raise UsageError(f"data.list={list_path} names lists of clips and lists of classes; name one kind")
    rows = pa.concat_tables([listing.rows for listing in listings])
    notes = [note for part in listings for note in part.notes] + [note for sample in samples for note in sample.notes]
    return Path(list_path).name, source, Listing(listings[0].by, rows, tuple(notes))


def recognise(sample: ListSample) -> str:
    """The format of a file, a key of SOURCES, from its beginning.

    Raises:
        UsageError: it is none of them; the message names them.
    """
    for name, source in SOURCES.items():
        if (name == "table" or sample.parquet_columns is None) and source.fits(sample):
            return name
    first = f"columns {', '.join(sample.parquet_columns)}" if sample.parquet_columns else f"line {sample.lines[0]!r}"
    formats = "\n".join(f"  {name}: {source.title}, such as {source.example}" for name, source in SOURCES.items())
    raise UsageError(
        f"data.list={sample.path} is of no known format, its first {first}; known are\n{formats}\n"
        "Set data.source if it is one of them, or give it a header with a column `path`"
    )


def _files(list_path: str) -> list[Path]:
    path = Path(list_path)
    place = look(path)
    if place.kind == "file":
        return [path]
    if place.kind == "folder":
        raise UsageError(
            f"data.list={list_path} is a folder; name the file in it, or several with a pattern such as "
            "'.../*list01.txt' or '.../*_test_split1.txt'"
        )
    paths = [Path(name) for name in sorted(glob(list_path)) if os.path.isfile(name)]
    if not paths:
        raise UsageError(
            f"data.list={list_path}: no such file ({place.reason}); give the list file, or a pattern of several"
        )
    return paths


def _check_folds(list_path: str, source: str, samples: list[ListSample]) -> None:
    """Refuse a clip's being in the training split of one fold and the test split of another."""
    if source in FOLDS:
        found = (re.search(FOLDS[source], sample.path.name) for sample in samples)
        numbers = sorted({fold.group(1) for fold in found if fold})
        if len(numbers) > 1:
            raise UsageError(f"data.list={list_path} names several folds ({', '.join(numbers)}); name one of them")


def _one_file_a_clip(manifest: pa.Table, listing: Listing, joined: Join) -> np.ndarray:
    files = np.flatnonzero(joined.row_of_file >= 0)
    rows = joined.row_of_file[files]
    # A recording may hold a clip that has a file as well, so that the two are counted apart.
    clips = np.where(
        joined.is_recording[files], joined.recording_of_row[rows] + len(listing.rows), joined.clip_of_row[rows]
    )
    if np.bincount(clips, minlength=1).max() <= 1:
        return files
    present, listed = manifest.take(files), listing.rows.take(rows)
    good = pc.fill_null(pc.equal(present["status"], "ok"), True).to_numpy()  # null: nobody has looked yet
    same = {
        name: pc.equal(_comparable(present[name], name), _comparable(listed[name], name)).to_numpy(zero_copy_only=False)
        for name in ("label", "split")
    }
    order = np.lexsort((files, ~same["split"], ~same["label"], ~good, clips))  # the last key is the first to count
    _, firsts = np.unique(clips[order], return_index=True)
    return np.sort(files[order][firsts])


def _comparable(column: pa.ChunkedArray, name: str) -> pa.Array:
    """Labels as they are compared; of splits, `validate` and `val` are one."""
    plain = folded(column)
    if name == "label":
        return plain
    encoded = plain.dictionary_encode()
    words = pa.array([split_of(word) or word for word in encoded.dictionary.to_pylist()], pa.large_string())
    return words.take(encoded.indices)


def _label(
    manifest: pa.Table, listing: Listing, files: np.ndarray, rows: np.ndarray, facts: dict[str, Any]
) -> pa.Table:
    kept, listed = manifest.take(files), listing.rows.take(rows)
    for name in ("label", "split", "id") if listing.by != "class" else ():
        column = pc.coalesce(listed[name], kept[name])
        kept = kept.set_column(kept.schema.get_field_index(name), name, column)
    if listed["id"].null_count < len(listed):
        counts = pc.value_counts(kept["id"])
        twice = counts.filter(pc.greater(counts.field("counts"), 1))
        if len(twice):
            repeated = twice.field("values")[0].as_py()
            raise UsageError(
                f"{facts['name']} gives the id {repeated!r} to several files; ids must differ, or leave them out"
            )
        kept = kept if kept["end_s"].null_count < len(kept) else kept.sort_by("id")
    metadata = {**(manifest.schema.metadata or {}), METADATA_KEY: json.dumps(facts).encode()}
    if listing.by != "class" and not listed["split"].null_count and not listed["label"].null_count:
        metadata.pop(LAYOUT_KEY, None)  # the folders have decided nothing
    return kept.replace_schema_metadata(metadata)
