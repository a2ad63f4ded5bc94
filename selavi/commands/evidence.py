"""Maps of clips, for boxes and the gallery: evidence, or another kind."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from datamodules.index.manifest import select_split, usable
from datamodules.loading.sampling import ChosenWindow
from datamodules.loading.views import ClipLoaders
from datamodules.stores.opening import open_media
from selavi.commands.localise import OWN
from selavi.commands.opening import open_run
from selavi.errors import UsageError
from selavi.guarded.json_file import as_written, read_json
from selavi.inference.device import best_device
from selavi.inference.load import load_model
from selavi.localisation import evidence
from selavi.localisation.files import EvidenceWriter, evidence_path
from selavi.localisation.maps import MAP_KINDS, MapKind
from selavi.meter import follow
from selavi.results.labels import read_labels
from selavi.runs.folder import RunFolder
from selavi.runs.record import Run

log = logging.getLogger("selavi")
BATCH_SIZE = 16  # windows, with the gradients of half an encoder
_AGAIN = "remove it, and measure again"


def evidence_for(
    run_folder: Path, split: str, head: int, clip_ids: list[str], root: str = "", maps: str = "evidence"
) -> Path:
    """Find the maps for the clusters of clips under a head; what RUN/MAPS/SPLIT-hH.parquet has is kept.

    Clips that cannot be decoded get no row.

    Raises:
        UsageError: the folder is no run, or clips or head are not in its labels.
    """
    clusters = read_labels(run_folder, split).cluster_of(head)
    unknown = [clip_id for clip_id in clip_ids if clip_id not in clusters]
    if unknown:
        raise UsageError(f"{run_folder} has no label of head {head} for {len(unknown)} clips, such as {unknown[0]!r}")
    path = evidence_path(run_folder, split, head, maps)
    with EvidenceWriter(path, evidence_key(run_folder, maps)) as writer:
        missing = {
            clip_id: clusters[clip_id] for clip_id in clip_ids if writer.clusters.get(clip_id) != clusters[clip_id]
        }
        if missing:
            _compute(open_run(run_folder, root), split, head, missing, writer, maps)
    return path


def evidence_key(run_folder: Path, maps: str = "evidence") -> str:
    """Names what maps are computed from: the state of a run, and how a kind of maps is made."""
    checkpoint = RunFolder(run_folder).last_checkpoint.stat()
    return f"{checkpoint.st_size} {checkpoint.st_mtime_ns} {MAP_KINDS[maps].version}"


def measured_worth(run_folder: Path, split: str, head: int, maps: str) -> str:
    """What `localise --annotations` said of a head's maps of a kind: of this split, else of another one; or nothing."""
    files = RunFolder(run_folder)
    here = files.localisation(split, head, maps)
    others = sorted(path for path in here.parent.glob(files.localisation("*", head, maps).name) if path != here)
    for path in [here, *others]:
        if not path.exists():
            continue
        record = read_json(path, _AGAIN)
        with as_written(path, _AGAIN):
            if record.get("checkpoint") == evidence_key(run_folder, maps):
                num_pictures = record["figures"][OWN]["num_pictures"]
                return (
                    f"measured on {num_pictures:,} annotated pictures of split {record['split']}: {record['verdict']}"
                )
    return ""


def _compute(run: Run, split: str, head: int, clusters: dict[str, int], writer: EvidenceWriter, maps: str) -> None:
    """Add the maps of clips, given with their clusters, under a head."""
    config = run.config
    clip_s = config.data.clip_s
    rows = usable(select_split(run.manifest, split))
    rows = rows.filter(pc.is_in(rows["id"], value_set=pa.array(clusters, pa.string())))
    clips = rows.select(["id", "duration_s", "height", "width"]).to_pylist()
    kind = MAP_KINDS[maps]
    explained = kind.modalities(config, head)
    seen = {name: evidence.input_shape(config, name) for name in explained}
    plans = [evidence.plan_windows(clip["duration_s"], clip_s, explained) for clip in clips]
    read = {name: kind.read_for(name, config, head) for name in explained}
    windows = [[ChosenWindow(place.start_s, read[place.modality]) for place in plan] for plan in plans]
    errors: dict[int, str] = {}
    of_windows = _maps(run, rows, windows, head, [clusters[clip["id"]] for clip in clips], kind, errors)
    for clip, plan in follow(zip(clips, plans, strict=True), f"{maps} of head {head}", len(clips), "clips"):
        placed = [(place, next(of_windows).get(place.modality)) for place in plan]
        if any(values is not None for _, values in placed):
            size = (clip["height"], clip["width"])
            cluster, duration_s = clusters[clip["id"]], clip["duration_s"]
            writer.add(evidence.assemble(clip["id"], cluster, duration_s, clip_s, size, placed, seen))
    for row, reason in list(errors.items())[:1]:
        log.warning(f"{len(errors)} of {len(clips)} clips have no maps; the first, {clips[row]['id']}: {reason}")


def _maps(
    run: Run,
    rows: pa.Table,
    windows: Sequence[Sequence[ChosenWindow]],
    head: int,
    clusters: Sequence[int],
    kind: MapKind,
    errors: dict[int, str],
) -> Iterator[dict[str, np.ndarray]]:
    """Compute the maps of every window in turn, for the modalities that it has.

    Args:
        run: whose model explains.
        rows: N clips.
        windows: of each of the N clips.
        head: whose clusters are explained.
        clusters: of the N clips.
        kind: of the maps.
        errors: takes the reasons for clips that cannot be decoded, by row.
    """
    config = run.config
    loaders = ClipLoaders(config, run.manifest, open_media(config, run.manifest, may_decode_ahead=False))
    model, augment = load_model(run, best_device(config.trainer.accelerator))
    for batch in loaders.window_loader(rows, windows, BATCH_SIZE):
        errors.update(batch.errors)
        targets = torch.tensor([clusters[row] for row in batch.index.tolist()])
        maps = kind.find(model, augment, batch, targets, head, config)
        for number in range(len(targets)):
            yield {name: values[number].numpy() for name, values in maps.items() if batch.present[name][number]}
