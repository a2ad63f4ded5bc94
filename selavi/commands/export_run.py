"""Write the tables, the page and what is handed over of one run."""

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datamodules.index.moved import at_root
from datamodules.stores.opening import open_media
from selavi.atomic import hold, next_free
from selavi.commands.checks import own_folders
from selavi.commands.export import ExportArguments, ExportResult
from selavi.commands.features import features_of
from selavi.commands.gallery import GalleryContent, write_run_gallery
from selavi.config import Config, load_run_config
from selavi.errors import UsageError
from selavi.modalities import reads_media
from selavi.results.cluster_table import ClusterTables, write_cluster_tables
from selavi.results.gallery.columns import Columns, read_columns
from selavi.results.gallery.select import arrange
from selavi.results.handover import hand_over
from selavi.results.labels import read_labels
from selavi.results.naming import Names, apply_names, read_names, write_names
from selavi.runs.folder import RunFolder
from selavi.runs.manifest import media_root, read_manifest
from selavi.scores.head_choice import choose_head

_NEED_FEATURES = {"features", "embedding-atlas", "spotlight"}


def export_run(arguments: ExportArguments) -> ExportResult:
    """Join labels, manifest and names, write the tables, then the gallery."""
    folder = arguments.run
    files = RunFolder(folder)
    written = [files.gallery / name for name in ("", "data", "media", "thumbs", "evidence")]
    own_folders(folder, [*written, files.handover, *files.handover.glob("*")])
    manifest = read_manifest(RunFolder(folder).manifest)
    config, manifest = at_root(load_run_config(folder), manifest, arguments.root)
    has_media = reads_media(config) and arguments.media != "none"
    if has_media and not arguments.root:
        _require_media(config, manifest)
    split = arguments.split or config.data.train_split
    labels = read_labels(folder, split, with_statistics=True)
    training = labels if split == config.data.train_split else read_labels(folder, config.data.train_split)
    choice = choose_head(training.clusters, probe=training.probe)
    head = int(arguments.head) if arguments.head.isdigit() else choice.head
    try:
        of_heads = ClusterTables(labels, manifest)
    except ValueError as error:
        raise UsageError(str(error)) from error
    labels.of_head(head)  # before anything is written
    columns = _own_columns(arguments, labels.ids.take(pc.array_sort_indices(labels.ids)))
    lock = hold(folder / ".export.lock")
    if lock is None:
        raise UsageError(f"another process exports {folder}; wait for it")
    with lock:
        names = _adopt_names(RunFolder(folder).names, arguments.names)
        numbers = range(labels.clusters.shape[1]) if arguments.head == "all" else [head]
        named = (apply_names(of_heads.of_head(number), names) for number in numbers)
        tables = write_cluster_tables(named, folder, spreadsheet_safe=arguments.spreadsheet_safe)
        clips, heads = arrange(labels, manifest)
        needs_features = arguments.map != "none" or set(arguments.to) & _NEED_FEATURES
        features: dict[str, np.ndarray] = {}
        no_map: str | None = "left out (--map none)"
        if needs_features:
            features, no_map = features_of(folder, split, clips["id"], arguments.root)
        agreement = choice.scores["agreement"]
        content = GalleryContent(
            config, split, manifest, clips, heads, features, no_map, head, agreement, names, columns
        )
        report = write_run_gallery(arguments, content)
        readme = None
        if arguments.to:
            link: Literal["relative", "copy"] = "copy" if arguments.media == "copy" else "relative"
            hand_over(
                apply_names(of_heads.of_head(head), names),
                arguments.to,
                RunFolder(folder).handover,
                media_root=media_root(manifest) if has_media else None,
                scanned=_scanned(clips),
                durations_s=dict(zip(clips["id"].to_pylist(), clips["duration_s"].to_pylist(), strict=True)),
                features={name: (clips["id"], values) for name, values in features.items()},
                link=link,
            )
            readme = RunFolder(folder).handover / "README.txt"
    return ExportResult(folder, tables, report.page, report.lines(), readme, arguments)


def _require_media(config: Config, manifest: pa.Table) -> None:
    """Refuse to write a page without pictures in the place of one that has them."""
    try:
        open_media(config, manifest, may_decode_ahead=False)
    except UsageError as error:
        raise UsageError(f"{error}; --media none writes the tables, and a page without media") from error


def _own_columns(arguments: ExportArguments, ids: pa.Array) -> Columns | None:
    """What the table of --table says of clips, in the order of their ids."""
    if arguments.table is None:
        return None
    page = RunFolder(arguments.run).gallery
    return read_columns(arguments.table, arguments.columns, arguments.picture, pa.chunked_array([ids]), page)


def _scanned(clips: pa.Table) -> dict[str, tuple[int, int]]:
    """Size and time of change of each clip's file, by id."""
    facts = zip(clips["bytes"].to_pylist(), clips["mtime_ns"].to_pylist(), strict=True)
    return dict(zip(clips["id"].to_pylist(), facts, strict=True))


def _adopt_names(kept: Path, given: Path | None) -> Names:
    """The run's names, which those of a given file replace; earlier ones stay as names.1.csv, names.2.csv ..."""
    names = read_names(given or kept) if given or kept.exists() else Names([])
    if given and not (kept.exists() and kept.read_bytes() == given.read_bytes()):
        if kept.exists():
            kept.rename(next_free(kept))
        write_names(names, kept)
    return names
