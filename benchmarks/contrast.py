"""Do the maps of contrast point at what moves on the demo set, beside what needs no model; and what of them does it?

    python benchmarks/contrast.py runs/demo runs/demo-seed1 runs/demo-seed2      two minutes

The maps of `selavi localise` for the test clips under the head that is chosen without labels, one window each.  The
generator knows where it draws what moves, so every frame has a mask and a box.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from common import describe_machine, environment, markdown_table, mean_and_range, publish
from evidence import centre, colour_differences, frame_difference, median_difference, truths
from sounding import SPLIT, chosen_head, clusters_of
from torch import Tensor

from datamodules.loading.views import ClipLoaders
from selavi.augment import Augment
from selavi.batch import ClipBatch
from selavi.commands.opening import open_run
from selavi.inference.load import load_model, untrained_model
from selavi.localisation import contrast
from selavi.localisation.evidence import PICTURED, enlarge, find_evidence
from selavi.localisation.windows import find_in_windows
from selavi.model import SelaviModel
from selavi.randomness import mix
from selavi.runs.record import Run
from selavi.scores.boxes import adaptive_mask, iou, pointing

Find = Callable[..., dict[str, Tensor]]
Kinds = dict[str, tuple[SelaviModel, Find, dict[str, object]]]
"""Maps by their names: whose, how they are made, and constants that are others then."""
CONTRAST, OTHER = "contrast", "contrast of another clip"
SPACE, FINE, PLAIN, UNTRAINED = (
    f"contrast: {about}"
    for about in ("in space alone", "first stage alone", "not mirrored", "encoder without training")
)
PRIORS: dict[str, Callable[[Mapping[str, Tensor]], Tensor]] = {
    "centre": centre,
    "frame difference": frame_difference,
    "difference from the median frame": median_difference,
    "colour contrast": colour_differences,
}
CELLS, SHAKE = 6, 3
FIGURES = {"mask": "points at what moves", "box": "into its box", "iou_mask": "IoU", "iou_box": "IoU of the box"}


def figures_of(maps: Tensor, masks: np.ndarray, seen: Sequence[int]) -> np.ndarray:
    """(4, B): whether the largest place lies in a mask, in its box; overlap with them of as many of the largest places.

    Args:
        maps: (B, T, h, w).
        masks: (B, T, H, W) bool; NaN comes back for a clip without any.
        seen: (T, h, w) of the encoder's input.
    """
    fine = enlarge(maps.numpy(), seen, masks.shape[1:]).reshape(len(masks), -1)
    result = np.full((4, len(masks)), np.nan)
    for clip, (values, mask) in enumerate(zip(fine, masks, strict=True)):
        if mask.any():
            of_both = [mask.ravel(), boxes_of(mask).ravel()]
            points = [pointing(values, truth) for truth in of_both]
            overlaps = [iou(adaptive_mask(values, truth), truth) for truth in of_both]
            result[:, clip] = [*points, *overlaps]
    return result


def boxes_of(mask: np.ndarray) -> np.ndarray:
    """(T, H, W) bool: the smallest box around the mask of each frame."""
    rows, columns = mask.any(2), mask.any(1)
    between = [
        np.maximum.accumulate(side, 1) & np.maximum.accumulate(side[:, ::-1], 1)[:, ::-1] for side in (rows, columns)
    ]
    return between[0][:, :, None] & between[1][:, None, :]


def before_a_mosaic(batch: ClipBatch, drawn: np.ndarray) -> ClipBatch:
    """The clips with a mosaic of CELLS x CELLS colours, drawn for each clip, in place of their backgrounds.

    Args:
        batch: B clips.
        drawn: (B, T, H, W) bool, what is not background.
    """
    frames = batch.inputs[PICTURED]
    size = frames.shape[2:4]
    kept = F.interpolate(torch.from_numpy(drawn).float(), size)[..., None] > 0.5
    mosaics = []
    for row in batch.index.tolist():
        rng = np.random.default_rng(mix(0, "mosaic", str(row)))
        cells = torch.from_numpy(rng.integers(0, 256, (1, 3, CELLS, CELLS)).astype(np.float32))
        mosaics.append(F.interpolate(cells, size)[0].permute(1, 2, 0).to(torch.uint8))
    mosaic = torch.stack(mosaics)[:, None]
    return replace(batch, inputs={**batch.inputs, PICTURED: torch.where(kept, frames, mosaic)})


def shaken(batch: ClipBatch, drawn: np.ndarray) -> ClipBatch:
    """The clips with each frame moved by up to SHAKE pixels along each axis; what leaves comes in on the other side."""
    frames = batch.inputs[PICTURED].clone()
    for clip, row in zip(frames, batch.index.tolist(), strict=True):
        ways = np.random.default_rng(mix(0, "shake", str(row))).integers(-SHAKE, SHAKE + 1, (len(clip), 2))
        for frame, way in zip(clip, ways.tolist(), strict=True):
            frame.copy_(frame.roll(way, (0, 1)))
    return replace(batch, inputs={**batch.inputs, PICTURED: frames})


def measure(path: Path) -> dict[str, Any]:
    """The row of a run: figures of each kind of maps and of each prior, mean over clips, as they are and changed."""
    run = open_run(path)
    head = chosen_head(run)
    config = run.config
    model, augment = load_model(run)
    untrained, _ = untrained_model(run)
    fit_batch_norm(untrained, augment, ClipLoaders(config, run.manifest))
    kinds: Kinds = {
        CONTRAST: (model, contrast.find_contrast, {}),
        SPACE: (model, contrast.find_contrast, {"MIN_FRAMES": config.video.num_frames + 1}),
        "evidence": (model, find_evidence, {}),
        "windows": (model, find_in_windows, {}),
    }
    more: Kinds = {
        FINE: (model, contrast.find_contrast, {"MIN_PLACES": config.video.size // 2}),
        PLAIN: (model, contrast.find_contrast, {"MIRRORS": ((),)}),
        UNTRAINED: (untrained, contrast.find_contrast, {}),
    }
    return {
        "row": path.name,
        "head": head,
        "clips": len(ClipLoaders(config, run.manifest).evaluation_loader(SPLIT)[1]),
        "figures": figures_of_clips(run, head, kinds | more, augment, None),
        "busy": figures_of_clips(run, head, kinds, augment, before_a_mosaic),
        "shaken": figures_of_clips(run, head, kinds, augment, shaken),
        "environment": environment(path),
    }


def figures_of_clips(
    run: Run, head: int, kinds: Kinds, augment: Augment, change: Callable[[ClipBatch, np.ndarray], ClipBatch] | None
) -> dict[str, dict[str, float]]:
    """Figures by the names of maps and priors, of the test clips as they are or changed."""
    config = run.config
    loader, rows = ClipLoaders(config, run.manifest).evaluation_loader(SPLIT)
    clusters = clusters_of(run, head, rows["id"].to_pylist())
    truth_of, drawn_of = (truths(config, run.manifest, rows, moving) for moving in (True, False))
    of_names: dict[str, list[np.ndarray]] = {}
    for batch in loader:
        inputs = augment(batch, random=False)
        masks, seen = truth_of(batch, inputs)[PICTURED], inputs[PICTURED].shape[2:]
        if change is not None:
            batch = change(batch, drawn_of(batch, inputs)[PICTURED])
            inputs = augment(batch, random=False)
        maps: dict[str, Tensor] = {}
        for name, (looked, find, constants) in kinds.items():
            with mock.patch.multiple(contrast, **{"MIN_PLACES": contrast.MIN_PLACES, **constants}):
                maps[name] = find(looked, augment, batch, clusters[batch.index], head, config)[PICTURED]
        maps["windows"] = maps["windows"].expand(-1, seen[0], -1, -1)
        maps[OTHER] = maps[CONTRAST].roll(len(masks) // 2 + 1, 0)
        maps |= {f"no model: {name}": prior(inputs) for name, prior in PRIORS.items()}
        for name, values in maps.items():
            of_names.setdefault(name, []).append(figures_of(values, masks, seen))
    means = {name: np.nanmean(np.concatenate(parts, 1), 1).tolist() for name, parts in of_names.items()}
    return {name: dict(zip(FIGURES, values, strict=True)) for name, values in means.items()}


def fit_batch_norm(model: SelaviModel, augment: Augment, loaders: ClipLoaders) -> None:
    """Let an untrained encoder's batch norm see clips, as it does before training begins; nothing else changes."""
    encoder = model.encoders[PICTURED].train()
    with torch.no_grad():
        for batch in loaders.evaluation_loader(SPLIT)[0]:
            encoder(augment(batch, random=False)[PICTURED])
    encoder.eval()


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """docs/results/contrast.md."""

    def table(which: str) -> str:
        cells = [
            [name, *(mean_and_range([row[which][name][figure] for row in rows]) for figure in FIGURES)]
            for name in rows[0][which]
        ]
        return markdown_table(["", *FIGURES.values()], cells)

    clips = rows[0]["clips"]
    return f"""# Contrast on the demo set

Which places stand out of a picture, in space and in time ([evidence.md](../evidence.md#boxes)): do these maps point at
the thing, beside what needs no model? {len(rows)} runs of the demo recipe with different seeds, {clips} test clips, one
window each, the head that is chosen without labels; mean over the runs, and their range. The generator knows where it
draws what moves. *IoU*: with as many of the largest places as the mask, or the box around it, has.

{table("figures")}

*In space alone*: without what changes over time. *First stage alone*: without the second one, whose map is multiplied
with its own. *Not mirrored*: each frame in one image in place of four. *Encoder without training*: as it was before
training.

{_conclusion(rows)}

## Before a busy background

The same clips with a mosaic of {CELLS} x {CELLS} colours, drawn for each clip, in place of the background, which these
models never saw: so the thing is no longer what differs most from the rest of the picture.

{table("busy")}

{_conclusion_of("busy", rows)}

## With a camera that shakes

The same clips, each frame moved by up to {SHAKE} pixels of its own along each axis, so that every place changes.

{table("shaken")}

{_conclusion_of("shaken", rows)}

{describe_machine(rows)} By `python benchmarks/contrast.py`.
"""


def _conclusion(rows: Sequence[Mapping[str, Any]]) -> str:
    def least(name: str, figure: str) -> str:
        return f"{min(row['figures'][name][figure] for row in rows):.2f}"

    def most(name: str, figure: str) -> str:
        return f"{max(row['figures'][name][figure] for row in rows):.2f}"

    moving, colours = "no model: frame difference", "no model: colour contrast"
    return (
        f"In the worst run contrast points at what moves in {least(CONTRAST, 'mask')} of the clips with an IoU of "
        f"{least(CONTRAST, 'iou_mask')}, and in space alone, where it knows of no change, in {least(SPACE, 'mask')} "
        f"({least(SPACE, 'iou_mask')}). The change from frame to frame does in {most(moving, 'mask')} "
        f"({most(moving, 'iou_mask')}), evidence in {most('evidence', 'mask')} at best "
        f"({most('evidence', 'iou_mask')}), another clip's contrast in {most(OTHER, 'mask')}. An encoder without "
        f"training does in {least(UNTRAINED, 'mask')} to {most(UNTRAINED, 'mask')}. **But no model is needed here:** "
        f"the places whose colour differs most from the picture's median colour are on it in {most(colours, 'mask')} "
        f"({most(colours, 'iou_mask')}), since things of the demo set have a colour of their own."
    )


def _conclusion_of(which: str, rows: Sequence[Mapping[str, Any]]) -> str:
    def span(name: str) -> str:
        return mean_and_range([row[which][name]["mask"] for row in rows])

    return (
        f"There contrast points at what moves in {span(CONTRAST)}, in space alone in {span(SPACE)}, evidence in "
        f"{span('evidence')}; plain colours in {span('no model: colour contrast')}, the change from frame to frame in "
        f"{span('no model: frame difference')}, the difference from the median frame in "
        f"{span('no model: difference from the median frame')}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    rows = [measure(path) for path in parser.parse_args().runs]
    publish("contrast", "Contrast on the demo set", rows, page(rows))


if __name__ == "__main__":
    main()
