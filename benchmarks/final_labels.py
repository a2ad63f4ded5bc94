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
from torch import Tensor, nn

from selavi.config import Config
from selavi.heads import make_heads
from selavi.labelling.bank import LabelBank
from selavi.labelling.labeller import Labeller
from selavi.labelling.solver.kmeans import cluster, start_centres
from selavi.labelling.solver.transport import assign
from selavi.loss import selavi_loss
from selavi.randomness import mix
from selavi.scores.consensus import consensus
from selavi.scores.head_choice import choose_head

STARTS = 8
"""Of K-means."""
BATCH, RATE, MOMENTUM = 64, 0.1, 0.9
REFERENCE = "heads, chosen"


def fit_heads(views: Views, config: Config, rounds: int) -> tuple[nn.ModuleDict, LabelBank]:
    """Fit fresh heads to the cached views of a run's training clips: its own labelling, its encoders frozen.

    Args:
        views: features, each standardised.
        config: of the run, with the kind and the number of heads to fit, which are labelled `rounds` times.
        rounds: epochs, each from one random view of every clip, with a labelling before it.

    Returns:
        The heads, in evaluation mode, and their labels and potentials.
    """
    sizes = {name: values.shape[2] for name, values in views.features.items()}
    num_views, num_clips = next(iter(views.present.values())).shape
    generator = torch.Generator().manual_seed(mix(config.seed, "refit"))
    heads = config.heads
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(config.seed, "refit heads"))
        fitted = nn.ModuleDict(
            {n: make_heads(heads.kind, heads.num_heads, size, heads.num_clusters, 0.0) for n, size in sizes.items()}
        )
    bank = LabelBank([str(number) for number in range(num_clips)], heads.num_heads, heads.num_clusters)
    labeller = Labeller(config)
    steps = num_clips // BATCH * rounds
    optimizer = torch.optim.SGD(fitted.parameters(), RATE, MOMENTUM)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)

    def relabel(last: bool = False) -> None:
        fitted.eval()
        labeller.relabel(
            bank,
            lambda number: views.table(number % num_views),
            lambda features, only: {name: fitted[name](features[name], only) for name in fitted},
            lambda branch, head, permutation: fitted[branch].permute_clusters(head, permutation),
            statistics=last,
        )
        fitted.train()

    if heads.kind == "mlp":  # batch norm sees some data before it is asked
        fitted.train()
        with torch.no_grad():
            for rows in torch.randperm(num_clips, generator=generator).split(BATCH)[:8]:
                for name in fitted:
                    fitted[name](views.features[name][0, rows])
    for _ in range(rounds):
        with torch.no_grad():
            relabel()
        order = torch.randperm(num_clips, generator=generator)
        for rows in order[: num_clips // BATCH * BATCH].split(BATCH):
            which = torch.randint(num_views, (len(rows),), generator=generator)
            logits = {name: fitted[name](views.features[name][which, rows]) for name in fitted}
            present = {name: views.present[name][which, rows] for name in fitted}
            loss = len(logits) * selavi_loss(logits, bank[rows], present)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        relabel(last=True)
    return fitted.eval(), bank


def standardised(views: Views, like: Views) -> Views:
    """The features, each as far from the mean of `like` as its standard deviation says."""
    scaled = {}
    for name, values in views.features.items():
        kept = like.features[name][like.present[name]]
        scaled[name] = (values - kept.mean(0)) / kept.std(0).clamp(min=1e-6)
    return Views(scaled, views.present)


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
    rules: dict[str, dict[str, float]] = {}

    def score(rule: str, by_split: Mapping[str, np.ndarray]) -> None:
        rules[rule] = {name: nmi(encoded.labels[name], clusters) for name, clusters in by_split.items()}

    def score_heads(what: str, heads: Any, views: Mapping[str, Views], potentials: Tensor, of: Config) -> None:
        by_split = {name: head_clusters(heads, split, potentials, of) for name, split in views.items()}
        rules[f"{what}, mean"] = {
            name: float(np.mean([nmi(encoded.labels[name], column) for column in clusters.T]))
            for name, clusters in by_split.items()
        }
        chosen = choose_head(by_split["train"]).head
        score(f"{what}, chosen", {name: clusters[:, chosen] for name, clusters in by_split.items()})
        agreed = {n: consensus(clusters, of.heads.num_clusters).clusters for n, clusters in by_split.items()}
        score(f"{what}, consensus", agreed)

    score_heads("heads", model.logits, encoded.even, bank["potentials"], config)
    for rule, by_split in kmeans_rules(encoded).items():
        rules[f"{rule}, mean of {STARTS}"] = {
            name: float(np.mean([nmi(encoded.labels[name], one) for one in clusterings[:-1]]))
            for name, clusterings in by_split.items()
        }
        score(f"{rule}, best of {STARTS} without labels", {name: all_[-1] for name, all_ in by_split.items()})
    views = {name: standardised(split, encoded.augmented) for name, split in encoded.even.items()}
    seconds = {}
    for kind in ("linear", "mlp"):
        began = time.monotonic()
        heads = replace(config.heads, kind=kind, num_heads=args.heads)
        of = replace(config, heads=heads, labelling=replace(config.labelling, num_labellings=args.rounds))
        fitted, fitted_bank = fit_heads(standardised(encoded.augmented, encoded.augmented), of, args.rounds)
        seconds[kind] = round(time.monotonic() - began, 1)

        def logits(features: Mapping[str, Tensor], fitted: nn.ModuleDict = fitted) -> dict[str, Tensor]:
            return {name: fitted[name](features[name]) for name in fitted}

        score_heads(f"refit, {kind} heads", logits, views, fitted_bank.potentials, of)
    return {
        "run": folder.name,
        "set": Path(config.data.root).name,
        "rules": rules,
        "refit_seconds": seconds,
        "num_fitted": args.heads,
        "cached": args.cached,
        "rounds": args.rounds,
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
sees the training clips alone, without labels. *Refit* is {results[0]["num_fitted"]} fresh heads a modality over
{results[0]["cached"]} cached augmented views of each clip, labelled {results[0]["rounds"]} times as the run labels; it
takes {min(seconds):.0f} to {max(seconds):.0f} seconds a run, without the encoding.

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
    parser.add_argument("--rounds", type=int, default=30, help="epochs over the cached views, and labellings")
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
