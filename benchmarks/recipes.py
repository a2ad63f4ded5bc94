"""SeLaVi beside its neighbours on AV-objects and AV-digits: one modality, concatenation, DeepCluster, XDC, K-means.

    python benchmarks/recipes.py                                       three seeds of everything, one run at a time
    python benchmarks/recipes.py --recipes selavi concat --seeds 0     a part of it; rows made before are kept
    python benchmarks/recipes.py --sets av_objects --trial trainer.max_epochs=1     a trial; printed, not published

Every recipe has the settings of benchmarks/small_sets.py, on AV-objects with fewer epochs (BUDGETS) so that many rows
fit in a day; only the labels differ.  The rows that are there were made before first labels, equal votes and the
summed loss became the defaults; benchmarks/labels.py measures with and without them.  The page is written after each
run, so that one still filling can be published.
A row is made once: it is found in the run's folder or in benchmarks/results/recipes.json.  The sets are not
distributed; see benchmarks/small_sets.py.
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from common import (
    RESULTS,
    ROOT,
    Job,
    describe_machine,
    load_runs,
    markdown_table,
    publish,
    rows_of,
    run_job,
    run_tool,
    shown,
    spread,
)
from small_sets import PUBLISHED, SETS, SmallSet, find_sets

SPLITS = ("train", "test")
COLUMNS = {"nmi": "NMI", "ari": "ARI", "accuracy": "accuracy"}
# In the order of the talk's claims: what to train first where time is short.
RECIPES = {
    "selavi": "SeLaVi",
    "concat": "concatenation (SeLa on both features)",
    "sela-video": "SeLa, video alone",
    "sela-audio": "SeLa, audio alone",
    "xdc": "XDC",
    "sdc": "SDC (each modality its own K-means)",
    "cdc": "CDC (K-means on concatenated features)",
    "deepcluster": "DeepCluster, video alone",
    "deepcluster-audio": "DeepCluster, audio alone",
}
MODALITIES_TABLE = ("sela-video", "sela-audio", "concat", "selavi")
RELATIVES_TABLE = ("deepcluster", "deepcluster-audio", "sdc", "xdc", "cdc", "selavi")
SEPARATE = ("sdc", "xdc")  # half of their heads are the video's, half the audio's
BUDGETS = {"avobjects": ("trainer.max_epochs=40", "labelling.num_labellings=40"), "avdigits": ()}
REMARKS = {
    "avdigits": """Sound alone is ahead here, which is not what the talk claims. The digits are heard far more easily
than seen (with labels, a probe reaches an accuracy of 0.898 and 0.528; small_sets.md), and heads trained on the picture
alone know little more than untrained encoders, so a label that both modalities must share is held back by the picture.
Nor are 45 epochs enough: SeLaVi's heads are behind K-means on its own features. That the sound teaches the picture
shows a little: in the last table, SeLaVi's video encoder is ahead of the one that was trained on the picture alone.""",
}
CLAIMS = (
    ("selavi", "concat", "Both modalities as views beat their concatenation"),
    ("selavi", "sela-video", "Two modalities beat the picture alone"),
    ("selavi", "sela-audio", "Two modalities beat the sound alone"),
    ("selavi", "xdc", "Joint labels beat swapped ones (XDC)"),
    ("selavi", "cdc", "Fixed cluster sizes beat K-means on both modalities' features (CDC)"),
)


def jobs(small_set: SmallSet, recipes: Sequence[str], seeds: Sequence[int], trial: Sequence[str]) -> list[Job]:
    """Every training on one set, seed by seed."""
    from selavi.evaluation.compare import RECIPES as SETTINGS

    found = []
    for seed in seeds:
        for recipe in recipes:
            name = f"{small_set.folder}-{recipe}-seed{seed}"
            budget = BUDGETS[small_set.folder]
            overrides = (f"data.root=${small_set.variable}", *small_set.overrides, *budget, *SETTINGS[recipe], *trial)
            row = f"{small_set.name}, {recipe}"
            found.append(Job("recipes", name, row, seed, "configs/small.yaml", overrides, SPLITS))
    return found


def measure(job: Job, folders: Mapping[str, Path]) -> dict[str, Any]:
    """Train and measure, or find it done; with K-means on the run's features, and each modality's heads."""
    run_dir = job.run_dir()
    result = add_kmeans(run_job(job, folders), run_dir, folders)
    for split in SPLITS:
        if job.row.split(", ")[1] in SEPARATE:
            heads = json.loads((ROOT / run_dir / "eval" / f"metrics_{split}.json").read_text(encoding="utf-8"))["heads"]
            half = len(heads) // 2
            sides = {"video": heads[:half], "audio": heads[half:]}
            of_side = {side: mean(entry["nmi"] for entry in each) for side, each in sides.items()}
            result["splits"][split]["modalities"] = of_side
    return result


def add_kmeans(result: dict[str, Any], run_dir: Path, folders: Mapping[str, Path]) -> dict[str, Any]:
    """The figures of a job, with those of K-means on the features of its run, and the command that made them."""
    kept = run_dir / "eval" / "features"
    command = ["tools/compare.py", "--runs", str(run_dir), "--splits", *SPLITS, "--out", str(kept)]
    if not (ROOT / kept / "compare.json").exists():
        run_tool(command, folders)
    summary = json.loads((ROOT / kept / "compare.json").read_text(encoding="utf-8"))["summary"]
    result["commands"] = [*result["commands"], shown(command)]
    for split in SPLITS:
        result["splits"][split]["kmeans"] = {
            e["name"]: {name: e[name]["mean"] for name in COLUMNS} for e in summary if e["split"] == split
        }
    return result


def page(runs: Sequence[Mapping[str, Any]]) -> str:
    """docs/results/recipes.md."""
    sections = "\n".join(_section(one, runs) for one in SETS.values() if _of_set(one, runs))
    return f"""# SeLaVi and its neighbours

All recipes are settings of one program ([method.md](../method.md#the-neighbours-of-selavi)) and have the same
encoders, augmentation, epochs, number of labellings and heads; only where labels come from differs. The budget is 40
epochs on AV-objects, less than half of that of small_sets.md, and the 45 of small_sets.md on AV-digits; no figure here
is the best that a recipe can do. Nothing was tuned for any of them: the settings are those that were chosen for SeLaVi
on these sets, which favours it. What the sets are is told in [small_sets.md](small_sets.md): **picture and sound are
paired by class only**, so the modalities share nothing but the class, which favours labels that both can tell.

**These rows are of the recipe before [labels.md](labels.md)**, which is that of the paper in where labels come from:
`labelling.votes=raw labelling.first=random loss.reduce=mean`. With today's defaults SeLaVi's labels are much better.

The head of each run is chosen without labels, by its agreement with the other heads; under XDC and SDC among the heads
of both modalities. The test clips were not seen in training. A cell shows every seed and the mean. A table with fewer
than three seeds in a row is still filling.

{sections}
{describe_machine(runs)}

Made by `python benchmarks/recipes.py`, which runs for each row and seed:

```
{chr(10).join(runs[0]["commands"])}
```
"""


def _section(small_set: SmallSet, runs: Sequence[Mapping[str, Any]]) -> str:
    of_recipe = _of_set(small_set, runs)
    claims = []
    for ours, other, claim in CLAIMS:
        pairs = _pairs(of_recipe.get(ours, []), of_recipe.get(other, []))
        if pairs:
            claims.append(f"- {claim}: {_gained(pairs, lambda run, split: run['splits'][split]['chosen']['nmi'])}.")
    claims += _kmeans_claims(of_recipe)
    separate = [
        [
            RECIPES[name],
            len_of(each),
            *(_cell(each, split, "modalities", side) for split in SPLITS for side in ("video", "audio")),
        ]
        for name, each in of_recipe.items()
        if name in SEPARATE
    ]
    sides = ["recipe", "seeds", *(f"{split} NMI, {side} heads" for split in SPLITS for side in ("video", "audio"))]
    parts = [
        f"## {small_set.name}",
        REMARKS.get(small_set.folder),
        "### One modality, concatenation, both",
        _table(of_recipe, MODALITIES_TABLE),
        "### Relatives",
        _table(of_recipe, RELATIVES_TABLE),
        *(
            ["Where each modality has labels of its own, the mean of its heads:", markdown_table(sides, separate)]
            if separate
            else []
        ),
        "### Pre-training, then K-means",
        "NMI of K-means (mean of three starts) on the encoders' features, each standardised and of length 1, beside\n"
        "that of the chosen head; `untrained` are the same encoders before any training.",
        _kmeans_table(of_recipe),
        "### What the talk claims",
        "\n".join(claims) if claims else "No two recipes of one claim have been trained yet.",
        f"![NMI of the recipes](../images/recipes_{small_set.folder}.png)",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def len_of(runs: Sequence[Mapping[str, Any]]) -> str:
    """How many seeds a row has."""
    return str(len(runs))


def _of_set(small_set: SmallSet, runs: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    found = {row.split(", ")[1]: each for row, each in rows_of(runs).items() if row.startswith(f"{small_set.name}, ")}
    return {name: sorted(found[name], key=lambda run: run["seed"]) for name in RECIPES if name in found}


def _pairs(
    ours: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]
) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    by_seed = {run["seed"]: run for run in others}
    return [(run, by_seed[run["seed"]]) for run in ours if run["seed"] in by_seed]


def _gained(
    pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]],
    nmi_of_other: Callable[[Mapping[str, Any], str], float],
) -> str:
    """In how many seeds the chosen head of the first of a pair is ahead, and by how much on average."""
    told = []
    for split in SPLITS:
        gains = [a["splits"][split]["chosen"]["nmi"] - nmi_of_other(b, split) for a, b in pairs]
        won = sum(gain > 0 for gain in gains)
        told.append(f"{split} NMI higher in {won} of {len(gains)} seeds, by {mean(gains):+.3f} on average")
    return "; ".join(told)


def _table(of_recipe: Mapping[str, Sequence[Mapping[str, Any]]], names: Sequence[str]) -> str:
    header = ["recipe", "seeds", *(f"{split} {name}" for split in SPLITS for name in COLUMNS.values())]
    rows = []
    for name in names:
        each = of_recipe.get(name, [])
        cells = [_cell(each, split, "chosen", column) for split in SPLITS for column in COLUMNS]
        rows.append([RECIPES[name], len_of(each), *cells])
    return markdown_table(header, rows)


def _cell(each: Sequence[Mapping[str, Any]], split: str, kind: str, figure: str) -> str:
    return spread([run["splits"][split][kind][figure] for run in each]) if each else ""


def _kmeans_table(of_recipe: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    kinds = ("untrained ", "video", "audio", "video+audio")
    header = ["recipe", *(f"{split} {kind.strip()}" for split in SPLITS for kind in (*kinds, "chosen head"))]
    rows = []
    for name, each in of_recipe.items():
        cells = []
        for split in SPLITS:
            for kind in kinds:
                values = [_kmeans(run, split, kind) for run in each]
                cells.append("" if None in values else f"{mean(v for v in values if v is not None):.3f}")
            cells.append(f"{mean(run['splits'][split]['chosen']['nmi'] for run in each):.3f}")
        rows.append([RECIPES[name], *cells])
    return markdown_table(header, rows)


def _kmeans(run: Mapping[str, Any], split: str, kind: str) -> float | None:
    """NMI of K-means on one kind of features; `untrained ` stands for all features of the untrained encoders."""
    found = run["splits"][split]["kmeans"]
    names = (
        [f"kmeans on {kind}"]
        if kind != "untrained "
        else [name for name in found if name.startswith("kmeans on untrained")]
    )
    return next((found[name]["nmi"] for name in names if name in found), None)


def _kmeans_claims(of_recipe: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """SeLaVi's chosen head against K-means on features: of the same encoders, and of those that XDC has trained."""
    lines = []
    for other, whose in (("selavi", "the same encoders"), ("xdc", "encoders that XDC has trained")):
        pairs = _pairs(of_recipe.get("selavi", []), of_recipe.get(other, []))
        if not pairs:
            continue
        gained = _gained(pairs, lambda run, split: _kmeans(run, split, "video+audio") or 0.0)
        lines.append(f"- Learning clusters beats K-means on the features of {whose}: {gained}.")
    return lines


def plot(small_set: SmallSet, runs: Sequence[Mapping[str, Any]]) -> None:
    """docs/images/recipes_SET.png."""
    from selavi.evaluation.compare import plot_summary

    rows = [
        {"name": RECIPES[name], "seed": run["seed"], "split": split, "nmi": run["splits"][split]["chosen"]["nmi"]}
        for name, each in _of_set(small_set, runs).items()
        for run in each
        for split in SPLITS
    ]
    title = f"SeLaVi and its neighbours on {small_set.name}"
    plot_summary(rows, title).save(ROOT / "docs" / "images" / f"recipes_{small_set.folder}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=PUBLISHED, default=list(PUBLISHED))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trial", nargs="+", default=[], metavar="KEY=VALUE", help="change every run, publish nothing")
    args = parser.parse_args()
    folders = find_sets(args.sets)
    here = [SETS[name] for name in args.sets if SETS[name].variable in folders]
    known = load_runs("recipes") if (RESULTS / "recipes.json").exists() and not args.trial else []
    made = {run["commands"][0]: run for run in known}
    # Seed by seed over all sets and recipes, so that every row has its first seed early.
    planned = [job for seed in args.seeds for one in here for job in jobs(one, args.recipes, [seed], args.trial)]
    for number, job in enumerate(planned, 1):
        command = shown([*job.train_command(), f"run_dir={job.run_dir()}"])
        if command in made:
            continue
        print(f"\n{number}/{len(planned)}: {job.row}, seed {job.seed}", file=sys.stderr)
        made[command] = measure(job, folders)
        if not args.trial:
            runs = list(made.values())
            publish("recipes", "SeLaVi and its neighbours", runs, page(runs))
            for one in SETS.values():
                if _of_set(one, runs):
                    plot(one, runs)
    if args.trial and made:
        print(page(list(made.values())))
        print("not published: a trial", file=sys.stderr)


if __name__ == "__main__":
    main()
