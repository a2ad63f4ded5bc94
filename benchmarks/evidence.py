"""Does the evidence lie on the object and at the moment of the sound, and does the model need it?

    python benchmarks/evidence.py runs/demo [--split test] [--head 0]
    python benchmarks/evidence.py --priors      only what needs no model; the rows of the model stay as they are

The generator of the demo set knows where everything is drawn and when each event happens, so the run must be one on
the demo set.  Beside the maps stand priors, which anybody could give without a model: the middle of the picture, where
something moves, where the sound is loudest.  Nothing is trained; minutes on two cores.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from common import ROOT, describe_machine, load_runs, machine, markdown_table, measured_here, publish

from datamodules.clips import prepare_data
from datamodules.loading.views import ClipLoaders
from datamodules.synthetic import FPS, draw_frames, draw_nuisances
from selavi.augment import Augment
from selavi.batch import ClipBatch
from selavi.config import Config, load_config
from selavi.inference.load import load_model
from selavi.localisation import evidence
from selavi.localisation.contrast import find_contrast
from selavi.localisation.windows import find_in_windows
from selavi.randomness import mix
from selavi.results.labels import read_labels
from selavi.runs.manifest import media_root
from selavi.runs.record import load_run

STRUCK = ("thud", "bell", "tick")
"""Sounds with a moment; hum and rush swell."""
SINCE_S = 0.15
"""What counts as the moment of a struck sound: from the event on."""
SHOWN = f"{evidence.MIN_POSITIONS} positions a side"
"""The row of the maps that the gallery shows."""
KEPT = 0.2
"""Share of the picture or the spectrogram that is covered, or that alone is kept."""


def drawn(look: str, nuisances: Any, moving: bool = False) -> np.ndarray:
    """(T, h, w) bool: where the generator draws anything before the background, or only what moves."""
    plain = {
        "background_colour": (0, 0, 0),
        "gradient": (0, 0),
        "ripple": (0, 0, 0, 0),
        "grain": 0.0,
        "brightness": 1.0,
    }
    white = {"object_colour": (1, 1, 1), "accent_colour": (0, 0, 0) if moving else (1, 1, 1)}
    return draw_frames(look, dataclasses.replace(nuisances, **plain, **white))[..., 0] > 127


def truths(
    config: Config, manifest: pa.Table, rows: pa.Table, moving: bool = False
) -> Callable[[ClipBatch, Mapping[str, torch.Tensor]], dict[str, np.ndarray]]:
    """A function: batch, inputs -> bool arrays, (B, T, h, w) drawn and (B, F, T') within SINCE_S of a strike."""
    seed = json.loads((media_root(manifest) / "dataset.json").read_text(encoding="utf-8"))["seed"]
    paths, durations_s = (rows[name].to_pylist() for name in ("path", "duration_s"))
    clip_s = config.data.clip_s

    def of_batch(batch: ClipBatch, inputs: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
        truth: dict[str, list[np.ndarray]] = {"video": [], "audio": []}
        for row in batch.index.tolist():
            split, label, name = Path(paths[row]).parts[-3:]
            nuisances = draw_nuisances(mix(seed, "clip", split, int(Path(name).stem)))
            start_s = (durations_s[row] - clip_s) / 2
            times_s = start_s + np.arange(config.video.num_frames) * clip_s / config.video.num_frames
            shown = np.minimum((times_s * FPS + 1e-6).astype(int), nuisances.num_frames - 1)
            truth["video"].append(drawn(label.split("_")[0], nuisances, moving)[shown])
            columns_s = start_s + (np.arange(inputs["audio"].shape[3]) + 0.5) * config.audio.hop_s
            since_s = (nuisances.phase + nuisances.rate_hz * columns_s) % 1 / nuisances.rate_hz
            struck = label.split("_")[1] in STRUCK
            moment = since_s < SINCE_S if struck else np.zeros_like(since_s, bool)
            truth["audio"].append(np.broadcast_to(moment, inputs["audio"].shape[2:]))
        return {name: np.stack(values) for name, values in truth.items()}

    return of_batch


def centre(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """(B, T, h, w) a cone over the middle of the picture, the same for every clip."""
    _, _, num_frames, height, width = (video := inputs["video"]).shape
    y, x = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    cone = 2**0.5 - (y**2 + x**2).sqrt()
    return cone.expand(len(video), num_frames, height, width)


def frame_difference(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """(B, T, h, w) mean change from the frame before and to the next one, mean over 5 x 5."""
    change = inputs["video"].diff(dim=2).abs().mean(1)
    before, after = torch.cat([change[:, :1], change], 1), torch.cat([change, change[:, -1:]], 1)
    return F.avg_pool2d((before + after) / 2, 5, 1, 2)


def median_difference(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """(B, T, h, w) difference from the clip's median frame, which is the background of what moves, mean over 5 x 5."""
    video = inputs["video"]
    return F.avg_pool2d((video - video.median(2, keepdim=True).values).abs().mean(1), 5, 1, 2)


def colour_differences(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """(B, T, h, w) distance of each pixel's colour from the median colour of its frame, mean over 5 x 5."""
    video = inputs["video"]
    median = video.flatten(3).median(3).values[..., None, None]
    return F.avg_pool2d((video - median).norm(dim=1), 5, 1, 2, count_include_pad=False)


def loudness(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """(B, F, T') the spectrogram itself, from its softest place."""
    spectrogram = inputs["audio"][:, 0]
    return spectrogram - spectrogram.amin((1, 2), keepdim=True)


PRIORS = {
    "no model: centre": ("video", centre),
    "no model: frame difference": ("video", frame_difference),
    "no model: difference from the median frame": ("video", median_difference),
    "no model: colour contrast": ("video", colour_differences),
    "no model: loudest": ("audio", loudness),
}
"""What needs no model -> its modality, and inputs -> maps."""


def measure_priors(config: Config, manifest: pa.Table, split: str) -> list[dict[str, Any]]:
    """One row a prior: the figures that ask where a map lies, and none that asks a model."""
    loader, rows = ClipLoaders(config, manifest).evaluation_loader(split)
    augment, truth_of = Augment(config), truths(config, manifest, rows)
    found: dict[str, list[np.ndarray]] = {}
    for batch in loader:
        inputs = augment(batch, random=False)
        truth = truth_of(batch, inputs)
        for name, (modality, prior) in PRIORS.items():
            figures = _place(prior(inputs), inputs[modality].shape[2:], truth[modality])
            found.setdefault(name, []).append(figures)
    made = measured_here()
    result = []
    for name, batches in found.items():
        figures = np.concatenate(batches, 1)
        means = {key: float(np.nanmean(values)) for key, values in zip(_FIGURES[:5], figures, strict=True)}
        row = {"row": name, "split": split, "environment": made, "map": name, "prior": True}
        result.append({**row, "modality": PRIORS[name][0], "clips": figures.shape[1], **means})
    return result


def _shifted(number: int) -> np.ndarray:
    """(number,) for each clip another one, of another cluster as a rule."""
    return np.roll(np.arange(number), number // 2 + 1)


def _place(maps: torch.Tensor, seen: Sequence[int], truth: np.ndarray) -> np.ndarray:
    """(5, B), the first five of _FIGURES, of maps of an input of shape `seen`.

    NaN where there is no truth (a swelling sound has no moment).
    """
    on_truth = evidence.enlarge(maps.clamp(min=0).numpy(), seen, truth.shape[1:]).reshape(len(maps), -1)
    flat = truth.reshape(len(truth), -1)
    area = np.where(flat.any(1), flat.mean(1), np.nan)
    columns = []
    for order in (np.arange(len(maps)), _shifted(len(maps))):
        theirs = on_truth[order]
        at_most = theirs >= theirs.max(1, keepdims=True) * (1 - 1e-6)  # a map may be the same in every frame
        hit = np.where(np.isnan(area), np.nan, (at_most * flat).sum(1) / at_most.sum(1))
        mass = np.where(np.isnan(area), np.nan, (theirs * flat).sum(1) / np.maximum(theirs.sum(1), 1e-12))
        columns.append((hit, mass))
    own, other = columns
    return np.stack([own[0], other[0], own[1], other[1], area])


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a setting of MIN_POSITIONS and a modality, and one for windows of the picture."""
    run = load_run(args.run)
    config = run.config
    model, augment = load_model(run)
    clusters = read_labels(args.run, args.split).cluster_of(args.head)
    loader, rows = ClipLoaders(config, run.manifest).evaluation_loader(args.split)
    ids = rows["id"].to_pylist()
    truth_of = truths(config, run.manifest, rows)
    wanted: dict[str, Callable[..., dict[str, torch.Tensor]]] = {
        "the last map": partial(evidence.find_evidence, min_positions=1),
        SHOWN: evidence.find_evidence,
        "windows": find_in_windows,
        "contrast": find_contrast,
    }
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for batch in loader:
        chosen = torch.tensor([clusters[ids[row]] for row in batch.index.tolist()])
        inputs = augment(batch, random=False)
        truth = truth_of(batch, inputs)
        for name, find in wanted.items():
            maps = find(model, augment, batch, chosen, args.head, config)
            for modality, values in maps.items():
                figures = _judge(model, inputs, batch.present, modality, values, truth[modality], chosen, args.head)
                found.setdefault((name, modality), []).append(figures)
    result = []
    for (name, modality), batches in found.items():
        figures = np.concatenate(batches, 1)
        means = {key: float(np.nanmean(values)) for key, values in zip(_FIGURES, figures, strict=True)}
        result.append({"map": name, "modality": modality, "clips": figures.shape[1], **means})
    trained = json.loads((args.run / "env.json").read_text(encoding="utf-8"))
    environment = {key: trained[key] for key in ("python", "versions", "git_commit", "device")} | {"machine": machine()}
    return [
        {"row": row["map"], "split": args.split, "head": args.head, "environment": environment, **row} for row in result
    ]


_FIGURES = (
    "hit", "hit_other", "mass", "mass_other", "area",
    "loss", "loss_other", "kept", "kept_other",
)  # fmt: skip
"""Of each clip, with its own map and with another clip's: whether the maximum lies in the truth; the share of the
positive evidence there; the share of the truth; by how much covering KEPT lowers the log-probability; the probability
with KEPT alone left."""


def _judge(
    model: Any, inputs: Mapping[str, torch.Tensor], present: Mapping[str, torch.Tensor], modality: str,
    maps: torch.Tensor, truth: np.ndarray, clusters: torch.Tensor, head: int,
) -> np.ndarray:  # fmt: skip
    """(9, B), in the order of _FIGURES; NaN where there is no truth (a swelling sound has no moment)."""
    x = inputs[modality]
    on_input = torch.from_numpy(evidence.enlarge(maps.clamp(min=0).numpy(), x.shape[2:], x.shape[2:]))[:, None]

    def log_probability(changed: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            logits = model({**inputs, modality: changed}, present)
        values = logits.get(modality, next(iter(logits.values())))[head].log_softmax(1)
        return values.gather(1, clusters[:, None])[:, 0].numpy()

    whole = log_probability(x)
    blank = x.mean(tuple(range(2, x.ndim)), keepdim=True)
    columns = []
    for order in (np.arange(len(x)), _shifted(len(x))):
        ranks = on_input[order].flatten(1).argsort(dim=1, stable=True).argsort(dim=1)
        top = (ranks >= (1 - KEPT) * ranks.shape[1]).view(on_input.shape)
        loss = whole - log_probability(torch.where(top, blank, x))
        kept = np.exp(log_probability(torch.where(top, x, blank)))
        columns.append((loss, kept))
    own, other = columns
    return np.concatenate([_place(maps, x.shape[2:], truth), np.stack([own[0], other[0], own[1], other[1]])])


def page(runs: Sequence[Mapping[str, Any]]) -> str:
    """docs/results/evidence.md."""

    def table(modality: str) -> str:
        header = ["map", "maximum inside", "of another clip", "mass inside", "of another clip", "area",
                  "covered: loss", "of another clip", "kept: probability", "of another clip"]  # fmt: skip
        shown = [run for run in runs if run["modality"] == modality]
        cells = [[run["map"], *(f"{run[key]:.2f}" if key in run else "-" for key in _FIGURES)] for run in shown]
        return markdown_table(header, cells)

    models = [run for run in runs if not run.get("prior")]
    by_map = {(run["modality"], run["map"]): run for run in models}
    video, evidence, audio = by_map["video", "contrast"], by_map["video", SHOWN], by_map["audio", SHOWN]
    priors = {run["map"].removeprefix("no model: "): run for run in runs if run.get("prior")}
    middle, moving, loudest = (priors[name] for name in ("centre", "frame difference", "loudest"))
    unlike, colours = priors["difference from the median frame"], priors["colour contrast"]
    split, head, clips = runs[0]["split"], runs[0]["head"], runs[0]["clips"]
    return f"""# Evidence on the demo set

Where the evidence for a clip's cluster lies ([evidence.md](../evidence.md)), for the {clips} clips of split {split}
under head {head}, one window each. The generator knows where it draws (everything before the background, also what
hardly moves) and when it strikes; *inside* means there. "Of another clip" is the map of some other clip in place of the
clip's own, which lies as centrally and is as smooth. The rows "no model" are priors that need no training: the *centre*
of the picture; the absolute *frame difference* to both neighbours and the *difference from the median frame* of the
clip; *colour contrast*, the distance of each pixel's colour from the frame's median colour; all three as the mean over
5 x 5 pixels; the place where the spectrogram is *loudest*. *Windows* and *contrast* are those of
`selavi localise --maps`. *Covered*: by how much the logarithm of the modality's probability of the cluster falls when
the fifth of the input with the most evidence is replaced by the input's mean. *Kept*: the probability when only that
fifth is left.

## Picture

{table("video")}

## Sound

Inside: within {SINCE_S:g} s after a strike; hum and rush have no such moment and are left out of the first five
columns.

{table("audio")}

## What this shows

Of the maps that the gallery shows, *contrast* in the picture (*{SHOWN}* with `selavi export --maps evidence`) and
*{SHOWN}* in the sound:

- Picture: the hottest place lies on something drawn in {video["hit"]:.0%} of the clips, with another clip's map in
  {video["hit_other"]:.0%}; that of the evidence in {evidence["hit"]:.0%} and {evidence["hit_other"]:.0%}. **Without any
  model** the middle of the picture does so in {middle["hit"]:.0%}, the place that changes most from frame to frame in
  {moving["hit"]:.0%}, the one that differs most from the median frame in {unlike["hit"]:.0%}, and the one whose colour
  differs most from the frame's median colour in {colours["hit"]:.0%}. Covering the hot fifth costs {video["loss"]:.2f}
  nats against {video["loss_other"]:.2f} with another clip's map; that of the evidence {evidence["loss"]:.2f} and
  {evidence["loss_other"]:.2f}.
- Sound: the hottest moment follows a strike in {audio["hit"]:.0%} against {audio["hit_other"]:.0%}; without any model
  the loudest place of the spectrogram does in {loudest["hit"]:.0%}. The hot fifth alone keeps a probability of
  {audio["kept"]:.2f} against {audio["kept_other"]:.2f}; covering it costs {audio["loss"]:.2f} nats: a sound repeats
  itself, and what is left suffices.

So the maps say more than another clip's about what the model uses. Those of evidence do not localise: in most clips
their hottest place is beside the object; contrast does, and no better here than colours without a model. Whoever wants
to find the moment does better by looking where it is loud. The last map, which is the textbook's, is the coarser and
the worse one here. One run, one head.

{describe_machine(runs)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="a run on the demo set")
    parser.add_argument("--priors", action="store_true", help="only what needs no model, on the demo set of the recipe")
    parser.add_argument("--split", default="test")
    parser.add_argument("--head", type=int, default=0)
    args = parser.parse_args()
    if args.priors == (args.run is not None):
        parser.error("expected a run, or --priors")
    if args.priors:
        config = load_config(ROOT / "configs" / "demo.yaml", ["data.cache_gb=0"])
        models, manifest = [run for run in load_runs("evidence") if not run.get("prior")], prepare_data(config)[0]
    else:
        run = load_run(args.run)
        models, config, manifest = measure(args), run.config, run.manifest
    runs = [*models, *measure_priors(config, manifest, args.split)]
    publish("evidence", "Evidence on the demo set", runs, page(runs))


if __name__ == "__main__":
    sys.exit(main())
