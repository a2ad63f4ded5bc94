"""Which rule chooses a head without labels at the smallest loss against the best head, which only labels can name?

    python benchmarks/head_choice.py runs/benchmarks/labels/*

Any finished run folders with two heads or more whose clips have labels will do.  Every rule looks at the training clips
alone; what it loses is measured on a split that no run has seen.  A rule that has nothing to say of a run (what the
modalities share, where there is one) leaves the choice to agreement.
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
from encoded import Views, encode_run, head_clusters, nmi
from torch import Tensor
from torch.nn.functional import cross_entropy

from selavi.config import Config
from selavi.labelling.features import FeatureTable
from selavi.labelling.probe import probe_scores
from selavi.labelling.rule import LabelRule
from selavi.scores.consensus import consensus
from selavi.scores.head_choice import choose_head

RULES = {
    "agreement": "NMI of a head's clusters with those of the other heads, mean over them",
    "with consensus": "NMI with the consensus of all heads",
    "probabilities shared": "overlap of the modalities' probabilities, mean over the clips (`--choose modalities`)",
    "modalities' clusters": "NMI of what the modalities say alone",
    "objective": "cross-entropy of the modalities' heads with the labels, mean over clips and modalities; low is good",
    "objective, unseen views": "the same, in augmented views that training never saw",
    "probe": "how well a linear classifier on the features of half of the clips finds the others' clusters (kappa): "
    "the default",
    "training clips' own labels": "NMI with the true labels of the training clips, which nobody has: what is lost "
    "there no rule could know",
}


@torch.no_grad()
def measure(folder: Path, root: str, split: str) -> dict[str, Any]:
    """Scores of every head by every rule, and its NMI with the labels of unseen clips."""
    run, model, encoded = encode_run(folder, root, split, num_cached=2)
    config, bank = run.config, run.checkpoint["label_bank"]
    num_clusters = config.heads.num_clusters
    by_head = head_clusters(model, encoded.even[split], LabelRule.from_tensors(bank), config)
    labels = bank["labels"].long()
    assignments = labels.numpy()
    agreed = consensus(assignments, num_clusters).clusters
    seen, there = model.join(*encoded.even["train"].clip_by_clip())
    cached = encoded.augmented
    unseen_views = Views({n: v.float() for n, v in cached.features.items()}, cached.present)
    unseen, unseen_there = model.join(*unseen_views.clip_by_clip())
    logits = model.logits(seen)
    plain = FeatureTable(*encoded.plain()[0])
    scores = {
        "agreement": choose_head(assignments).scores["agreement"],
        "with consensus": np.array([nmi(agreed, column) for column in assignments.T]),
        "probabilities shared": _shared(logits, config),
        "modalities' clusters": _alone(logits, config),
        "objective": -_cross_entropy(logits, there, labels, config),
        "objective, unseen views": -_cross_entropy(model.logits(unseen), unseen_there, labels, config),
        "probe": _probed(plain, labels, config),
        "training clips' own labels": np.array([nmi(encoded.labels["train"], column) for column in assignments.T]),
    }
    return {
        "run": folder.name,
        "set": Path(config.data.root).name,
        "nmi": [nmi(encoded.labels[split], column) for column in by_head.T],
        "consensus_nmi": nmi(encoded.labels[split], consensus(by_head, num_clusters).clusters),
        "scores": {rule: values.tolist() for rule, values in scores.items()},
        "environment": environment(folder),
    }


def _probed(clips: FeatureTable, labels: Tensor, config: Config) -> np.ndarray:
    """A column's probe score; nan where a run would not compare its heads so, either."""
    if not config.has_comparable_heads:
        return np.full(config.num_label_heads, np.nan)
    return probe_scores(clips, labels, config.heads.num_clusters).numpy()


def _shared(logits: Mapping[str, Tensor], config: Config) -> np.ndarray:
    """A column's mean over views of the overlap of the modalities' probabilities; nan where none vote together."""
    if len(config.label_sets[0].voters) < 2:
        return np.full(config.num_label_heads, np.nan)
    lowest = torch.stack([values.softmax(2) for values in logits.values()]).amin(0)
    return lowest.sum(2).mean(1).numpy()


def _alone(logits: Mapping[str, Tensor], config: Config) -> np.ndarray:
    """A column's NMI of the first two modalities' own likeliest clusters, over all views; nan as in _shared."""
    if len(config.label_sets[0].voters) < 2:
        return np.full(config.num_label_heads, np.nan)
    tables = [values.argmax(2).numpy() for values in logits.values()]
    return np.array([nmi(one, other) for one, other in zip(*tables[:2], strict=True)])


def _cross_entropy(
    logits: Mapping[str, Tensor], present: Mapping[str, Tensor], labels: Tensor, config: Config
) -> np.ndarray:
    """A column's cross-entropy of the labels (N, columns), mean over the views that have a modality, and over these.

    Args:
        logits: (H, N x V, K) a branch.
        present: (N x V,) a branch.
        labels: of the last labelling.
        config: of the run.
    """
    losses = torch.full((config.num_label_heads,), torch.nan)
    if not config.labelling_method.reads_scores:  # labels of new centres, which the heads have not learned
        return losses.numpy()
    for label_set in config.label_sets:
        for head, column in enumerate(label_set.learning_columns):
            of_branches = []
            for name in label_set.learners:
                targets = labels[:, column].repeat_interleave(logits[name].shape[1] // len(labels))[present[name]]
                of_branches.append(cross_entropy(logits[name][head][present[name]], targets))
            losses[column] = torch.stack(of_branches).mean()
    return losses.numpy()


def losses(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """NMI that each rule loses against the best head, by row; negative where the consensus is better than any head.

    A rule that has nothing to say of a run leaves the choice to agreement.
    """
    lost: dict[str, list[float]] = {rule: [] for rule in (*RULES, "consensus", "any head")}
    for row in rows:
        best = max(row["nmi"])
        for rule in RULES:
            scores = np.array(row["scores"][rule], dtype=float)
            if np.isnan(scores).all():
                scores = np.array(row["scores"]["agreement"], dtype=float)
            chosen = int(np.nanargmax(scores))
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
