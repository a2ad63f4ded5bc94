"""Maps of evidence at annotated moments of clips, scored beside their priors; and boxes of any clips."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from datamodules.index.annotations import Annotation, Annotations, read_annotations
from datamodules.index.manifest import select_split, usable
from datamodules.loading.sampling import ChosenWindow
from datamodules.loading.views import ClipLoaders
from datamodules.stores.opening import open_media
from selavi.atomic import write_text
from selavi.commands.evidence import evidence_key, measured_worth
from selavi.commands.localise import LocaliseArguments, LocaliseResult, Measured, verdict
from selavi.commands.localise_boxes import write_boxes
from selavi.commands.opening import open_run
from selavi.errors import UsageError
from selavi.ids import explain_missing
from selavi.inference.device import best_device
from selavi.inference.load import load_model
from selavi.localisation import boxes, evidence
from selavi.localisation.maps import MAP_KINDS
from selavi.meter import follow
from selavi.results.labels import read_labels
from selavi.runs.folder import RunFolder
from selavi.runs.record import Run
from selavi.scores.boxes import beside_priors
from selavi.scores.head_choice import choose_head

BATCH_SIZE = 16
_UNMEASURED = (
    "nobody has measured whether these maps point at things. Where we did, contrast did so more often than the "
    "middle of the picture, but no more often than the best rule without a model, and other maps mostly did not "
    "(docs/evidence.md); `--annotations` with some boxes of yours says how well they do here"
)


@dataclass(frozen=True)
class _Moment:
    """An annotated picture of a clip of the run."""

    row: int
    cluster: int
    start_s: float
    """Begin of the window around it."""
    share: float
    """What part of the window has passed when it is shown."""
    truth: np.ndarray
    """(SIDE, SIDE)."""


def localise_run(arguments: LocaliseArguments) -> LocaliseResult:
    """Measure, where there are annotations, and write boxes, where they are asked for.

    Raises:
        UsageError: the annotations cannot be read, none is of a clip of the split, the clips have no labels yet, or one
            that is named is not among them.
    """
    run = open_run(arguments.run, arguments.root)
    split = arguments.split or run.config.data.train_split
    training = read_labels(run.folder, run.config.data.train_split)
    chosen = choose_head(training.clusters, probe=training.probe).head
    head = chosen if arguments.head == "chosen" else int(arguments.head)
    if (names := evidence.explained_modalities(run.config, head)) and evidence.PICTURED not in names:
        raise UsageError(
            f"boxes lie in pictures, and head {head} reads {' and '.join(names)}: choose another --head, or a run that "
            "was trained on video"
        )
    MAP_KINDS[arguments.maps].read_for(evidence.PICTURED, run.config, head)  # refused before anything is written
    measured = None
    if arguments.annotations is not None:
        measured = _measure(arguments, arguments.annotations, run, split, head)
    worth = measured_worth(run.folder, split, head, arguments.maps) or _UNMEASURED
    boxes = write_boxes(arguments, run, split, head, worth) if arguments.writes_boxes else None
    return LocaliseResult(split, head, arguments.maps, measured, boxes, worth)


def _measure(arguments: LocaliseArguments, annotated: Path, run: Run, split: str, head: int) -> Measured:
    """Compute the maps of the annotated clips, score them beside their priors, and write the figures down."""
    annotations = read_annotations(annotated, arguments.format)
    clusters = read_labels(run.folder, split).cluster_of(head)
    rows = usable(select_split(run.manifest, split))
    rows = rows.filter(pc.is_in(rows["id"], value_set=pa.array(clusters, pa.string())))
    moments, notes = _moments(annotations, rows, clusters, run, annotated)
    maps, frames, kept, num_bad = _look(run, rows, moments, head, arguments.maps)
    if num_bad:
        lack = "" if MAP_KINDS[arguments.maps].reads is None else ", or have no sound"
        notes.append(f"{num_bad} annotated pictures are of clips that cannot be decoded{lack}, and were left out")
    if len(kept) < 2:
        raise UsageError(f"{len(kept)} of {len(moments)} annotated pictures can be looked at: two are needed")
    moves = len(frames[0]) > 1  # runs may read one frame of each window
    pictures = [
        of_clip[evidence.nearest_position(moment.share, len(of_clip), len(of_clip))]
        for of_clip, moment in zip(frames, kept, strict=True)
    ]
    truths = [moment.truth for moment in kept]
    figures = beside_priors(maps, truths, "adaptive", frames if moves else None, pictures)
    path = RunFolder(run.folder).localisation(split, head, arguments.maps)
    record = {
        "split": split,
        "head": head,
        "maps": arguments.maps,
        "annotations": str(annotated),
        "checkpoint": evidence_key(run.folder, arguments.maps),
        "notes": notes,
        "figures": {name: asdict(row) for name, row in figures.items()},
        "verdict": verdict(figures),
    }
    path.parent.mkdir(exist_ok=True)
    write_text(path, json.dumps(record, indent=2) + "\n")
    return Measured(figures, tuple(notes), path)


def _moments(
    annotations: Annotations, rows: pa.Table, clusters: dict[str, int], run: Run, annotated: Path
) -> tuple[list[_Moment], list[str]]:
    """The annotated pictures of a run's clips in which anything is to be seen, and what was left out."""
    ids = rows["id"].to_pylist()
    named = [annotation.name for annotation in annotations.rows]
    places = boxes.places_of(named, ids)
    if not (places >= 0).any():
        hint = explain_missing(named, ids)
        raise UsageError(
            f"{annotated} names {len(named)} clips, such as {', '.join(map(repr, named[:2]))}, and none is "
            f"among the {len(ids)} labelled ones of that split, such as {', '.join(map(repr, ids[:2]))}"
            + (f": {hint}" if hint else "; --split chooses another one")
        )
    facts = rows.select(["duration_s", "height", "width"]).to_pylist()
    moments, num_outside = [], 0
    for annotation, place in zip(annotations.rows, places.tolist(), strict=True):
        if place < 0:
            continue
        fact = facts[place]
        truth = boxes.seen_square(annotation.truth, fact["height"], fact["width"])
        if not (truth > 0).any():
            num_outside += 1
            continue
        start_s, share = _window(annotation, fact["duration_s"], run.config.data.clip_s)
        moments.append(_Moment(place, clusters[ids[place]], start_s, share, truth))
    notes = annotations.notes()
    if num_missing := int((places < 0).sum()):
        notes.append(f"{num_missing} of {len(named)} annotated pictures are of no labelled clip of that split")
    if num_outside:
        notes.append(f"{num_outside} have nothing marked in the square in the middle, which is what the model sees")
    return moments, notes


def _window(annotation: Annotation, duration_s: float, clip_s: float) -> tuple[float, float]:
    """Start of the window around a picture, and which share of it has passed then; the clip's middle by default."""
    time_s = duration_s / 2 if annotation.time_s is None else annotation.time_s
    return evidence.window_around(time_s, duration_s, clip_s)


def _look(
    run: Run, rows: pa.Table, moments: Sequence[_Moment], head: int, kind: str
) -> tuple[list[np.ndarray], list[np.ndarray], list[_Moment], int]:
    """Maps and frames of the windows, the moments that they are of, and how many lack what the maps read."""
    config = run.config
    read = MAP_KINDS[kind].read_for(evidence.PICTURED, config, head)
    needed = (evidence.PICTURED,) if MAP_KINDS[kind].reads is None else read
    chosen = rows.take(pa.array([moment.row for moment in moments]))
    windows = [[ChosenWindow(moment.start_s, read)] for moment in moments]
    loaders = ClipLoaders(config, run.manifest, open_media(config, run.manifest, may_decode_ahead=False))
    model, augment = load_model(run, best_device(config.trainer.accelerator))
    seen = evidence.input_shape(config, evidence.PICTURED)
    maps, frames, kept = [], [], []
    batches = loaders.window_loader(chosen, windows, BATCH_SIZE)
    for batch in follow(batches, "maps", len(batches), "batches"):
        numbers = batch.index.tolist()
        targets = torch.tensor([moments[number].cluster for number in numbers])
        of_batch = MAP_KINDS[kind].find(model, augment, batch, targets, head, config)[evidence.PICTURED]
        for place, number in enumerate(numbers):
            if all(batch.present[name][place] for name in needed):
                maps.append(boxes.map_at(of_batch[place].numpy(), seen, moments[number].share))
                frames.append(boxes.frames_of(batch.inputs[evidence.PICTURED][place].numpy()))
                kept.append(moments[number])
    return maps, frames, kept, len(moments) - len(kept)
