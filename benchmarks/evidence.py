"""Does the evidence lie on the object and at the moment of the sound, and does the model need it?

    python benchmarks/evidence.py runs/demo [--split test] [--head 0]

The generator of the demo set knows where everything is drawn and when each event happens, so the run must be one on
the demo set.  Nothing is trained; minutes on two cores.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
from common import describe_machine, machine, markdown_table, publish

from datamodules.clips import ClipDataModule
from datamodules.manifest import media_root
from datamodules.synthetic import FPS, draw_frames, draw_nuisances
from selavi.evaluation import evidence
from selavi.export import read_labels
from selavi.randomness import mix
from selavi.training.run import load_model, load_run

STRUCK = ("thud", "bell", "tick")
"""Sounds with a moment; hum and rush swell."""
SINCE_S = 0.15
"""What counts as the moment of a struck sound: from the event on."""
KEPT = 0.2
"""Share of the picture or the spectrogram that is covered, or that alone is kept."""


def drawn(look: str, nuisances: Any) -> np.ndarray:
    """(T, h, w) bool: where the generator draws anything before the background."""
    plain = {
        "background_colour": (0, 0, 0),
        "gradient": (0, 0),
        "ripple": (0, 0, 0, 0),
        "grain": 0.0,
        "brightness": 1.0,
    }
    white = {"object_colour": (1, 1, 1), "accent_colour": (1, 1, 1)}
    return draw_frames(look, dataclasses.replace(nuisances, **plain, **white))[..., 0] > 127


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row a setting of MIN_POSITIONS and a modality."""
    run = load_run(args.run)
    config, clip_s = run.config, run.config.data.clip_s
    model, augment = load_model(run)
    root = media_root(run.manifest)
    seed = json.loads((root / "dataset.json").read_text(encoding="utf-8"))["seed"]
    labels = read_labels(args.run, args.split)
    labels = labels.filter(pc.equal(labels["head"], args.head))
    clusters = dict(zip(labels["id"].to_pylist(), labels["cluster"].to_pylist(), strict=True))
    loader, rows = ClipDataModule(config, run.manifest).evaluation_loader(args.split)
    ids, paths, durations_s = (rows[name].to_pylist() for name in ("id", "path", "duration_s"))
    wanted = {"the last map": 1, f"{evidence.MIN_POSITIONS} positions a side": evidence.MIN_POSITIONS}
    found: dict[tuple[str, str], list[np.ndarray]] = {}
    for batch in loader:
        chosen = torch.tensor([clusters[ids[row]] for row in batch.index.tolist()])
        inputs = augment(batch, random=False)
        truth = {"video": [], "audio": []}
        for row in batch.index.tolist():
            split, label, name = Path(paths[row]).parts[-3:]
            nuisances = draw_nuisances(mix(seed, "clip", split, int(Path(name).stem)))
            start_s = (durations_s[row] - clip_s) / 2
            times_s = start_s + np.arange(config.video.num_frames) * clip_s / config.video.num_frames
            shown = np.minimum((times_s * FPS + 1e-6).astype(int), nuisances.num_frames - 1)
            truth["video"].append(drawn(label.split("_")[0], nuisances)[shown])
            columns_s = start_s + (np.arange(inputs["audio"].shape[3]) + 0.5) * config.audio.hop_s
            since_s = (nuisances.phase + nuisances.rate_hz * columns_s) % 1 / nuisances.rate_hz
            struck = label.split("_")[1] in STRUCK
            truth["audio"].append(
                np.broadcast_to(
                    since_s < SINCE_S if struck else np.zeros_like(since_s, bool), inputs["audio"].shape[2:]
                )
            )
        for name, minimum in wanted.items():
            maps = evidence.find_evidence(model, augment, batch, chosen, args.head, config, min_positions=minimum)
            for modality, values in maps.items():
                figures = _judge(
                    model, inputs, batch.present, modality, values, np.stack(truth[modality]), chosen, args.head
                )
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
    mode = "trilinear" if x.ndim == 5 else "bilinear"
    positive = maps.clamp(min=0)[:, None]
    on_truth = F.interpolate(positive, truth.shape[1:], mode=mode)[:, 0].flatten(1).numpy()
    on_input = F.interpolate(positive, x.shape[2:], mode=mode)
    flat = truth.reshape(len(truth), -1)
    area = np.where(flat.any(1), flat.mean(1), np.nan)
    shifted = np.roll(np.arange(len(x)), len(x) // 2 + 1)  # of a clip of another cluster, as a rule

    def log_probability(changed: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            logits = model({**inputs, modality: changed}, present)
        values = logits.get(modality, next(iter(logits.values())))[head].log_softmax(1)
        return values.gather(1, clusters[:, None])[:, 0].numpy()

    whole = log_probability(x)
    blank = x.mean(tuple(range(2, x.ndim)), keepdim=True)
    columns = []
    for order in (np.arange(len(x)), shifted):
        theirs = on_truth[order]
        hit = np.where(np.isnan(area), np.nan, np.take_along_axis(flat, theirs.argmax(1)[:, None], 1)[:, 0])
        mass = np.where(np.isnan(area), np.nan, (theirs * flat).sum(1) / np.maximum(theirs.sum(1), 1e-12))
        ranks = on_input[order].flatten(1).argsort(dim=1, stable=True).argsort(dim=1)
        top = (ranks >= (1 - KEPT) * ranks.shape[1]).view(on_input.shape)
        loss = whole - log_probability(torch.where(top, blank, x))
        kept = np.exp(log_probability(torch.where(top, x, blank)))
        columns.append((hit, mass, loss, kept))
    own, other = columns
    return np.stack([own[0], other[0], own[1], other[1], area, own[2], other[2], own[3], other[3]])


def page(runs: Sequence[Mapping[str, Any]]) -> str:
    """docs/results/evidence.md."""

    def table(modality: str) -> str:
        header = ["map", "maximum inside", "of another clip", "mass inside", "of another clip", "area",
                  "covered: loss", "of another clip", "kept: probability", "of another clip"]  # fmt: skip
        cells = [[run["map"], *(f"{run[key]:.2f}" for key in _FIGURES)] for run in runs if run["modality"] == modality]
        return markdown_table(header, cells)

    video, audio = ([run for run in runs if run["modality"] == name][-1] for name in ("video", "audio"))
    split, head, clips = runs[0]["split"], runs[0]["head"], runs[0]["clips"]
    return f"""# Evidence on the demo set

Where the evidence for a clip's cluster lies ([evidence.md](../evidence.md)), for the {clips} clips of split {split}
under head {head}, one window each. The generator knows where it draws (everything before the background, also what
hardly moves) and when it strikes; *inside* means there. "Of another clip" is the chance level: the map of
some other clip in place of the clip's own, which lies as centrally and is as smooth. *Covered*: by how much the
logarithm of the modality's probability of the cluster falls when the fifth of the input with the most evidence is
replaced by the input's mean. *Kept*: the probability when only that fifth is left.

## Picture

{table("video")}

## Sound

Inside: within {SINCE_S:g} s after a strike; hum and rush have no such moment and are left out of the first five
columns.

{table("audio")}

## What this shows

Of the maps that the gallery shows (the second rows): of the picture, the hottest place lies on something drawn in
{video["hit"]:.0%} of the clips, with another clip's map in {video["hit_other"]:.0%}; covering the hot fifth costs {video["loss"]:.2f} nats
against {video["loss_other"]:.2f}. Of the sound, the hottest moment follows a strike in {audio["hit"]:.0%} against {audio["hit_other"]:.0%}, the hot fifth alone
keeps a probability of {audio["kept"]:.2f} against {audio["kept_other"]:.2f}, and covering it costs {audio["loss"]:.2f}: a sound repeats itself, and what is left
suffices. So the maps say more than chance about what the model uses, and they are no segmentation: in most clips
the hottest place is beside the object. The last map, which is the textbook's, is the coarser and the worse one here.
One run, one head.

{describe_machine(runs)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a run on the demo set")
    parser.add_argument("--split", default="test")
    parser.add_argument("--head", type=int, default=0)
    args = parser.parse_args()
    runs = measure(args)
    publish("evidence", "Evidence on the demo set", runs, page(runs))


if __name__ == "__main__":
    sys.exit(main())
