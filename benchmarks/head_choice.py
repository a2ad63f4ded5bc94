"""Which rule chooses a head without labels at the smallest loss against the best head, which only labels can name?

    python benchmarks/head_choice.py runs/benchmarks/labels/*

Any finished run folders with two heads or more whose clips have labels and whose modalities vote together will do.
Every rule looks at the training clips alone; what it loses is measured on a split that no run has seen.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import describe_machine, environment, markdown_table, publish
from encoded import encode_run, head_clusters, nmi
from torch import Tensor

from selavi.scores.consensus import consensus
from selavi.scores.head_choice import choose_head, probe_score

RULES = {
    "agreement": "NMI of a head's clusters with those of the other heads, mean over them: today's default",
    "with consensus": "NMI with the consensus of all heads",
    "probabilities shared": "overlap of the modalities' probabilities, mean over the clips (`--choose modalities`)",
    "modalities' clusters": "NMI of what the modalities say alone",
    "objective": "cross-entropy of the modalities' heads with the labels, mean over clips and modalities; low is good",
    "objective, unseen views": "the same, in augmented views that training never saw",
    "probe": "how often a linear classifier on the features of half of the clips finds the others' clusters "
    "(`--choose probe`)",
}


@torch.no_grad()
def measure(folder: Path, root: str, split: str) -> dict[str, Any]:
    """Scores of every head by every rule, and its NMI with the labels of unseen clips."""
    run, model, encoded = encode_run(folder, root, split, num_cached=2)
    bank, num_clusters = run.checkpoint["label_bank"], run.config.heads.num_clusters
    by_head = head_clusters(model.logits, encoded.even[split], bank["potentials"], run.config)
    labels = bank["labels"].long()
    assignments = labels.numpy()
    agreed = consensus(assignments, num_clusters).clusters
    seen, present = encoded.even["train"].clip_by_clip()
    unseen, unseen_present = encoded.augmented.clip_by_clip()
    logits = model.logits(seen)
    features = torch.cat([values[0] for values in encoded.even["train"].features.values()], 1)
    scores = {
        "agreement": choose_head(assignments).scores["agreement"],
        "with consensus": np.array([nmi(agreed, column) for column in assignments.T]),
        "probabilities shared": _shared(logits),
        "modalities' clusters": _alone(logits),
        "objective": -_cross_entropy(logits, present, labels),
        "objective, unseen views": -_cross_entropy(model.logits(unseen), unseen_present, labels),
        "probe": np.array([probe_score(features.numpy(), column) for column in assignments.T]),
    }
    return {
        "run": folder.name,
        "set": Path(run.config.data.root).name,
        "nmi": [nmi(encoded.labels[split], column) for column in by_head.T],
        "consensus_nmi": nmi(encoded.labels[split], consensus(by_head, num_clusters).clusters),
        "scores": {rule: values.tolist() for rule, values in scores.items()},
        "environment": environment(folder),
    }


def _shared(logits: Mapping[str, Tensor]) -> np.ndarray:
    """(H,) mean over views of the overlap of the modalities' probabilities; one modality: nan."""
    if len(logits) < 2:
        return np.full(len(next(iter(logits.values()))), np.nan)
    lowest = torch.stack([values.softmax(2) for values in logits.values()]).amin(0)
    return lowest.sum(2).mean(1).numpy()


def _alone(logits: Mapping[str, Tensor]) -> np.ndarray:
    """(H,) NMI of the first two modalities' own likeliest clusters, over all views; one modality: nan."""
    tables = [values.argmax(2).numpy() for values in logits.values()]
    if len(tables) < 2:
        return np.full(len(tables[0]), np.nan)
    return np.array([nmi(one, other) for one, other in zip(*tables[:2], strict=True)])


def _cross_entropy(logits: Mapping[str, Tensor], present: Mapping[str, Tensor], labels: Tensor) -> np.ndarray:
    """(H,) of the labels (N, H), mean over the views (H, N x V, K) that have a modality, and over modalities."""
    losses = []
    for name, values in logits.items():
        targets = labels.repeat_interleave(values.shape[1] // len(labels), 0)
        of_labels = -values.log_softmax(2).gather(2, targets.T[..., None])[..., 0]
        losses.append(of_labels[:, present[name]].mean(1))
    return torch.stack(losses).mean(0).numpy()


def losses(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """NMI that each rule loses against the best head, by row; negative where the consensus is better than any head.

    A rule that has nothing to say of a run (one modality) chooses head 0, as evaluation does.
    """
    lost: dict[str, list[float]] = {rule: [] for rule in (*RULES, "consensus", "any head")}
    for row in rows:
        best = max(row["nmi"])
        for rule in RULES:
            scores = np.array(row["scores"][rule], dtype=float)
            chosen = int(np.where(np.isnan(scores), -np.inf, scores).argmax())
            lost[rule].append(best - row["nmi"][chosen])
        lost["consensus"].append(best - row["consensus_nmi"])
        lost["any head"].append(best - float(np.mean(row["nmi"])))
    return lost


def page(rows: Sequence[Mapping[str, Any]], split: str) -> str:
    """docs/results/head_choice.md."""
    about = RULES | {"consensus": "no head: what all agree on", "any head": "chance: the mean over the heads"}
    sets = sorted({row["set"] for row in rows})
    by_set = {name: losses([row for row in rows if row["set"] == name]) for name in sets}
    cells = [
        [rule, f"{np.mean(lost):.4f}", f"{max(lost):.4f}", *(f"{np.mean(by_set[name][rule]):.4f}" for name in sets)]
        for rule, lost in losses(rows).items()
    ]
    spread = [max(row["nmi"]) - min(row["nmi"]) for row in rows]
    counted = ", ".join(f"{sum(row['set'] == name for row in rows)} of {name}" for name in sets)
    described = "\n".join(f"- *{rule}*: {words}." for rule, words in about.items())
    return f"""# Choosing a head without labels

What a rule loses: the NMI of the best head, known only with labels, less that of the head it chooses, on unseen clips
(split {split}); {len(rows)} runs, {counted}. The best and the worst head of a run are {np.mean(spread):.3f} apart on
average, and {max(spread):.3f} at most. Every rule looks at the training clips alone.

{markdown_table(["rule", "mean loss", "worst loss", *(f"mean, {name}" for name in sets)], cells)}

{described}

{describe_machine(rows)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--split", default="test", help="the unseen clips")
    parser.add_argument("--root", default="", help="where the media are now")
    parser.add_argument("--dry", action="store_true", help="print the page, write nothing")
    args = parser.parse_args()
    rows = []
    for folder in args.runs:
        rows.append(measure(folder, args.root, args.split))
        print(json.dumps(rows[-1] | {"environment": "..."}), file=sys.stderr)
    if args.dry:
        print(page(rows, args.split))
    else:
        publish("head_choice", "Choosing a head without labels", rows, page(rows, args.split))


if __name__ == "__main__":
    main()
