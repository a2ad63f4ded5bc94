"""What could replace the labels of a finished run: other rules on its frozen features, without training anew.

    python benchmarks/final_labels.py runs/benchmarks/labels/* --name NAME

Any finished run folders whose clips have labels, and whose modalities vote together, will do.  Every rule sees the
training clips alone; the true labels only score it, on the training clips and on a split that no run has seen.
A run's features are encoded once and kept in memory: `--cached` augmented views for the heads that are fitted anew, and
three even views for everything else.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import describe_machine, environment, markdown_table, publish
from encoded import Encoded, Views, encode_run, head_clusters, nmi
from torch import Tensor

from selavi.config import Config
from selavi.errors import UsageError
from selavi.labelling.bank import ids_of_bank
from selavi.labelling.rule import LabelRule
from selavi.labelling.solver.kmeans import cluster, start_centres
from selavi.labelling.solver.transport import assign
from selavi.model import SelaviModel
from selavi.randomness import mix
from selavi.scores.consensus import consensus
from selavi.scores.head_choice import choose_head
from selavi.training.refit import refit

STARTS = 8
"""Of K-means."""
REFERENCE = "heads, chosen"


def kmeans_rules(encoded: Encoded) -> dict[str, dict[str, list[np.ndarray]]]:
    """K-means on the even views' mean features, and transport on the cosines to its centres: clusters by rule, split.

    The last clustering of each list is the one with the lowest inertia, or the highest mean score, of them all.
    """
    config, train = encoded.config, encoded.even["train"]
    spaces = {name: _unit(views, train) for name, views in encoded.even.items()}
    num_clusters = config.heads.num_clusters
    rules: dict[str, dict[str, list[np.ndarray]]] = {
        rule: {name: [] for name in spaces} for rule in ("K-means", "transport to K-means centres")
    }
    inertia, value = [], []
    for start in range(STARTS):
        index = torch.arange(len(spaces["train"]))
        seed = mix(config.seed, "final labels", start)
        found = cluster(spaces["train"], start_centres(spaces["train"], index, len(index), num_clusters, seed))
        inertia.append(found.inertia)
        directions = torch.nn.functional.normalize(found.centres, dim=1)
        marginal = torch.full((num_clusters,), 1 / num_clusters, dtype=torch.float64)
        plan = assign(spaces["train"] @ directions.T, marginal, sharpness=config.plan_sharpness)
        value.append(-float((spaces["train"] @ directions.T).gather(1, plan.labels[:, None]).mean()))
        for name, space in spaces.items():
            nearest = (space @ found.centres.T - found.centres.square().sum(1) / 2).argmax(1)
            moved = (config.plan_sharpness * (space @ directions.T) + plan.potentials.float()).argmax(1)
            rules["K-means"][name].append(nearest.numpy())
            rules["transport to K-means centres"][name].append(moved.numpy())
    for by_split, costs in zip(rules.values(), (inertia, value), strict=True):
        for clusterings in by_split.values():
            clusterings.append(clusterings[int(np.argmin(costs))])
    return rules


def _unit(views: Views, like: Views) -> Tensor:
    """(N, M D) the branches' mean features over a clip's views, standardised as those of `like`, of length 1 each."""
    spaces = []
    for name, values in views.features.items():
        normal = torch.nn.functional.normalize
        mean, reference = normal(values, dim=2).mean(0), normal(like.features[name], dim=2).mean(0)
        has, reference_has = views.present[name].any(0), like.present[name].any(0)
        joined = unit_features_of(mean, reference[reference_has])
        spaces.append(torch.where(has[:, None], joined, 0.0))
    return torch.cat(spaces, 1)


def unit_features_of(features: Tensor, like: Tensor) -> Tensor:
    """Scale features as selavi.labelling.solver.kmeans.unit_features scales those of `like`."""
    spread = like.std(0, correction=0)
    scale = torch.where(spread > 1e-6 * like.square().mean(0).sqrt(), 1 / spread, 0.0)
    return torch.nn.functional.normalize((features - like.mean(0)) * scale, dim=1)


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    """NMI of every rule on one run, train and unseen."""
    run, model, encoded = encode_run(folder, args.root, args.split, args.cached)
    config, bank = run.config, run.checkpoint["label_bank"]
    if config.labelling.source != "joint":
        raise UsageError(f"{folder}: labelling.source={config.labelling.source}; only joint labels are compared")
    rules: dict[str, dict[str, float]] = {}

    def score(rule: str, by_split: Mapping[str, np.ndarray]) -> None:
        rules[rule] = {name: nmi(encoded.labels[name], clusters) for name, clusters in by_split.items()}

    def score_heads(what: str, of_model: SelaviModel, views: Mapping[str, Views], rule: LabelRule, of: Config) -> None:
        by_split = {name: head_clusters(of_model, split, rule, of) for name, split in views.items()}
        rules[f"{what}, mean"] = {
            name: float(np.mean([nmi(encoded.labels[name], column) for column in clusters.T]))
            for name, clusters in by_split.items()
        }
        chosen = choose_head(by_split["train"]).head
        score(f"{what}, chosen", {name: clusters[:, chosen] for name, clusters in by_split.items()})
        agreed = {n: consensus(clusters, of.heads.num_clusters).clusters for n, clusters in by_split.items()}
        score(f"{what}, consensus", agreed)

    score_heads("heads", model, encoded.even, LabelRule.from_tensors(bank), config)
    for rule, by_split in kmeans_rules(encoded).items():
        rules[f"{rule}, mean of {STARTS}"] = {
            name: float(np.mean([nmi(encoded.labels[name], one) for one in clusterings[:-1]]))
            for name, clusterings in by_split.items()
        }
        score(f"{rule}, best of {STARTS} without labels", {name: all_[-1] for name, all_ in by_split.items()})
    seconds = {}
    for kind in ("linear", "mlp"):
        began = time.monotonic()
        of = replace(config, heads=replace(config.heads, kind=kind, num_heads=args.heads))
        fitted = refit(of, model, encoded.augmented, ids_of_bank(bank), encoded.plain())
        seconds[kind] = round(time.monotonic() - began, 1)
        score_heads(f"refit, {kind} heads", fitted.model, encoded.even, fitted.bank.rule, of)
    return {
        "run": folder.name,
        "set": Path(config.data.root).name,
        "rules": rules,
        "refit_seconds": seconds,
        "num_fitted": args.heads,
        "cached": args.cached,
        "environment": environment(folder),
    }


def page(results: Sequence[Mapping[str, Any]], split: str) -> str:
    """docs/results/final_labels.md."""
    sets = sorted({result["set"] for result in results})
    header = ["labels", *(f"{name}, {of}" for name in sets for of in ("train", split, "range"))]
    cells = []
    for rule in results[0]["rules"]:
        row = [rule]
        for name in sets:
            scores = [result["rules"] for result in results if result["set"] == name]
            for of in ("train", split):
                row.append(f"{np.mean([by_rule[rule][of] for by_rule in scores]):.3f}")
            gains = [by_rule[rule][split] - by_rule[REFERENCE][split] for by_rule in scores]
            row.append(f"{min(gains):+.3f} to {max(gains):+.3f}")
        cells.append(row)
    counted = ", ".join(f"{sum(result['set'] == name for result in results)} of {name}" for name in sets)
    seconds = [value for result in results for value in result["refit_seconds"].values()]
    return f"""# Other labels from finished runs

NMI with the human labels, mean over the runs ({counted}). The range is that of the difference to the first way to
label, "{REFERENCE}", on the clips of split {split}, over the runs. The encoders are as the run left them. Every rule
sees the training clips alone, without labels. *Refit* is `selavi refit` with {results[0]["num_fitted"]} heads a
modality over {results[0]["cached"]} views of each clip, which takes {min(seconds):.0f} to {max(seconds):.0f} seconds
a run, without the encoding.

{describe_machine(results)}

{markdown_table(header, cells)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--split", default="test", help="the unseen clips")
    parser.add_argument("--root", default="", help="where the media are now")
    parser.add_argument("--cached", type=int, default=8, help="augmented views of a training clip")
    parser.add_argument("--heads", type=int, default=8, help="fresh heads")
    parser.add_argument("--dry", action="store_true", help="print the figures, write nothing")
    args = parser.parse_args()
    results = []
    for folder in args.runs:
        result = measure(folder, args)
        results.append(result)
        print(f"\n{folder}  (refit {result['refit_seconds']} s)", file=sys.stderr)
        for rule, scores in result["rules"].items():
            print(f"  {rule:52}" + "  ".join(f"{name} {value:.3f}" for name, value in scores.items()), file=sys.stderr)
    if not args.dry:
        publish("final_labels", "Other labels from finished runs", results, page(results, args.split))


if __name__ == "__main__":
    main()
