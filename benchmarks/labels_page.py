"""docs/results/labels.md, written from the rows of benchmarks/labels.py.  It trains nothing and reads no file.

Nothing is claimed of rows that are not there: a comparison is over the seeds that both rows have, and says how many.
"""

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from common import markdown_table, spread
from recipes import SPLITS
from small_sets import SETS, SmallSet

Run = Mapping[str, Any]
Rows = dict[str, list[Run]]
"""Runs of one set by the name of their row, ascending seeds."""

SEEDS = (0, 1, 2)
MODALITIES = ("sela-audio", "sela-video")
CLAIMS = {
    "published": "the published recipe",
    "before": "the recipe before this page",
    "concat": "concatenation",
    "xdc": "XDC",
    "cdc": "CDC",
    "kept": "itself with the features of its steps in place of passes over the clips",
}
GOALS = {"avobjects": (0.80, 0.93), "avdigits": (0.65, 0.80)}
"""Mean NMI that was asked for, at least and at best."""
WORDS = {
    "default": "`configs/small.yaml` as it is",
    "default-random": "the default with random first labels",
    "kept": "the default, but labels come from the features that the training steps have made, not from passes",
    "before": "the default as it was before this page: raw votes, mean loss, random first labels",
    "published": "as the paper, at the paper's rate for 64 clips a step",
    "published-fast-rate": "as the paper, at the rate of `small.yaml`, which is five times as high",
    "sela-audio": "SeLa, sound alone",
    "sela-video": "SeLa, picture alone",
    "concat": "concatenation: SeLa on both features",
    "xdc": "XDC",
    "cdc": "CDC: K-means on both features",
    "xdc-before": "XDC as in [recipes.md](recipes.md), where each encoder trains at half the rate",
    "cdc-before": "CDC as in [recipes.md](recipes.md), where each encoder trains at half the rate",
}


def page(
    runs: Sequence[Run], fast: Sequence[Run], rows: Mapping[str, str], fast_settings: str, tried: Sequence[Run] = ()
) -> str:
    """docs/results/labels.md.

    Args:
        runs: rows of labels.json.
        fast: rows of labels_fast.json.
        rows: what each row changes, by its name, in the order in which they are shown.
        fast_settings: what the instruments change.
        tried: rows of labels_tried.json, of ideas that are not in the code any more.
    """
    parts = [
        "# Which labels are better",
        _question(),
        "## In short",
        _answers(runs, rows),
        *(_section(one, _of_set(one, runs, rows)) for one in SETS.values() if _of_set(one, runs, rows)),
        "## Against the default, on every set",
        _against_default(runs, rows),
        "## Choosing the head",
        _head_choice(runs),
        "## What the rows change",
        _changes(rows),
        "## What differs from the published recipe",
        _departures(),
        "## What did not work",
        _failures(runs, rows),
        _tried(tried),
        "## Still missing",
        _missing(runs, rows),
        "## The instrument: for choosing, not for reporting",
        _instrument(fast, rows, fast_settings),
        "## How the rows were made",
        _made(runs),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _question() -> str:
    return """Which settings give labels that fit the true classes best, and what does each part of the recipe bring?
All rows of a set have the same encoders and the same budget of encoded clips, for training and for labels together.
The column *clips encoded* shows what of it a row needs: crafted first labels stand for the first labellings, which are
left out and not made up for, and the features that they are made of are no encoder's. A clip whose picture and sound
are both encoded counts once, so a single modality is cheaper than it looks. The row `kept` spends on labels almost none
of its budget, and does not make up for it with more training.

No label takes part in training nor in the choice of the head; labels only score the result. A cell shows every seed and
the mean. The test clips were not seen in training. AV-stamps is judged on its training clips, because its test clips
speak other languages and show other pictures. What the sets are is told in [small_sets.md](small_sets.md) and below:
**picture and sound are paired by class only**."""


def _answers(runs: Sequence[Run], rows: Mapping[str, str]) -> str:
    lines = []
    for small_set in SETS.values():
        of_row = _of_set(small_set, runs, rows)
        ours = of_row.get("default", [])
        if not ours:
            lines.append(f"- {small_set.name}: the default recipe has not been measured yet.")
            continue
        split = small_set.judged_on
        level = f"{small_set.name}, {split} clips: the default reaches an NMI of {_nmis(ours, split)}"
        lines.append(f"- **{level}**{_goal(small_set, ours)}.")
        singles = [_forms(name, of_row) for name in MODALITIES]
        if all(singles):
            names = [name for forms in singles for name in forms]
            best = max(names, key=lambda name: mean(_nmi(run, split) for run in of_row[name]))
            lines.append(f"  - Against its best single modality (`{best}`): {_gain(ours, of_row[best], split)}.")
        for rival, title in CLAIMS.items():
            for name in _forms(rival, of_row):
                lines.append(f"  - Against {title} (`{name}`): {_gain(ours, of_row[name], split)}.")
        own = [run for run in ours if _own_kmeans(run, split) is not None]
        if own:
            gains = [_nmi(run, split) - (_own_kmeans(run, split) or 0.0) for run in own]
            lines.append(f"  - Against K-means on its own features: {_told(gains)}.")
    return "\n".join(lines)


def _forms(name: str, of_row: Rows) -> list[str]:
    """A row as it is and with random first labels, as far as they are there."""
    return [form for form in (name, f"{name}-random") if form in of_row]


def _goal(small_set: SmallSet, ours: Sequence[Run]) -> str:
    if small_set.folder not in GOALS:
        return ""
    floor, goal = GOALS[small_set.folder]
    level = mean(_nmi(run, small_set.judged_on) for run in ours)
    reached = "above the goal" if level >= goal else "above the floor" if level >= floor else "below the floor"
    return f", {reached} (floor {floor:.2f}, goal {goal:.2f})"


def _section(small_set: SmallSet, of_row: Rows) -> str:
    other = next(split for split in SPLITS if split != small_set.judged_on)
    split = small_set.judged_on
    has_language = any("language" in run["splits"][split] for each in of_row.values() for run in each)
    header = [
        "row",
        f"{split} NMI",
        "range",
        f"{other} NMI",
        "oracle less chosen",
        "mean of heads",
        "K-means on own features",
        "each modality alone",
        *([f"NMI with the language, {split}"] if has_language else []),
        "clips encoded",
        "minutes",
        "made on",
    ]
    cells = [[name, *_cells(each, split, other, has_language)] for name, each in of_row.items()]
    about = small_set.about if small_set.judged_on == "train" else "What it is: [small_sets.md](small_sets.md)."
    quoted = small_set.quoted if small_set.judged_on == "train" else ""
    return "\n\n".join(part for part in (f"## {small_set.name}", about, quoted, markdown_table(header, cells)) if part)


def _cells(each: Sequence[Run], split: str, other: str, has_language: bool) -> list[str]:
    nmis = [_nmi(run, split) for run in each]
    regrets = [run["splits"][split]["oracle"]["nmi"] - _nmi(run, split) for run in each]
    kmeans = [value for run in each if (value := _own_kmeans(run, split)) is not None]
    languages = [run["splits"][split]["language"] for run in each if "language" in run["splits"][split]]
    counts = sorted({sum(run["encoded"].values()) for run in each})
    return [
        spread(nmis),
        f"{max(nmis) - min(nmis):.3f}" if len(nmis) > 1 else "",
        spread([_nmi(run, other) for run in each]),
        f"{mean(regrets):.3f}",
        f"{mean(run['splits'][split]['mean_of_heads']['nmi'] for run in each):.3f}",
        spread(kmeans) if kmeans else "",
        _alone(each, split),
        *([spread(languages) if languages else ""] if has_language else []),
        ", ".join(f"{count:,}" for count in counts),
        " ".join(f"{run['train_seconds'] / 60:.1f}" for run in each),
        ", ".join(sorted({run["environment"]["device"] for run in each})),
    ]


def _alone(each: Sequence[Run], split: str) -> str:
    """Mean NMI of what each modality says alone under the chosen head."""
    values: dict[str, list[float]] = {}
    for run in each:
        for name, nmi in run["splits"][split].get("alone", {}).items():
            values.setdefault(name, []).append(nmi)
    return ", ".join(f"{name} {mean(nmis):.3f}" for name, nmis in values.items())


def _against_default(runs: Sequence[Run], rows: Mapping[str, str]) -> str:
    lines = []
    for name in rows:
        cells = []
        for small_set in SETS.values():
            of_row = _of_set(small_set, runs, rows)
            gains = _gains(of_row.get(name, []), of_row.get("default", []), small_set.judged_on)
            cells.append(f"{mean(gains):+.3f} ({len(gains)})" if gains else "")
        if name != "default" and any(cells):
            lines.append([name, *cells])
    if not lines:
        return "Nothing to compare yet."
    header = ["row", *(f"{small_set.name}, {small_set.judged_on}" for small_set in SETS.values())]
    about = "NMI of the row less that of the default, mean over the seeds that both have; their number is in brackets."
    return f"{about}\n\n{markdown_table(header, lines)}"


def _head_choice(runs: Sequence[Run]) -> str:
    if not runs:
        return "Nothing measured yet."
    lines = []
    for split in SPLITS:
        regrets = [run["splits"][split]["oracle"]["nmi"] - _nmi(run, split) for run in runs]
        over_mean = [_nmi(run, split) - run["splits"][split]["mean_of_heads"]["nmi"] for run in runs]
        lines.append(
            f"- {split} clips, over {len(regrets)} runs: the NMI of the head that is chosen without labels is "
            f"{mean(regrets):.3f} below that of the best head on average (at most {max(regrets):.3f}), and "
            f"{mean(over_mean):+.3f} from the mean of the heads."
        )
    return "\n".join([*lines, *_best_possible(runs)])


def _best_possible(runs: Sequence[Run]) -> list[str]:
    """What the choice by the true labels of training clips would lose on test clips."""
    splits = [run["splits"] for run in runs if all("heads" in run["splits"][split] for split in SPLITS)]
    if not splits:
        return []
    by_rule, by_labels = [], []
    for split in splits:
        train, test = split["train"]["heads"], split["test"]["heads"]
        by_rule.append(max(test) - split["test"]["chosen"]["nmi"])
        by_labels.append(max(test) - test[train.index(max(train))])
    return [
        f"- Who knew the true labels of the training clips and took the head that is best on them would still lose "
        f"{mean(by_labels):.3f} on the test clips, over the {len(splits)} runs with figures of all heads; the rule "
        f"loses {mean(by_rule):.3f}: so much is the luck of few test clips."
    ]


def _changes(rows: Mapping[str, str]) -> str:
    cells = []
    for name, overrides in rows.items():
        words = WORDS.get(name, "")
        plain = WORDS.get(name.removesuffix("-random"), "")
        if plain and not words:
            words = f"{plain}, random first labels"
        cells.append([name, ": ".join(part for part in (words, f"`{overrides}`" if overrides else "") if part)])
    table = markdown_table(["row", "what it is"], cells).replace("---:", "---")
    return f"Everything else is [configs/small.yaml](../../configs/small.yaml) and the defaults.\n\n{table}"


def _departures() -> str:
    return """The row `published` has the paper's votes (raw), loss (mean over modalities), first labels (random heads),
cluster sizes (Gaussian, sd 0.1), power law 1.5, ten heads with dropout 0.3, crop, flip and volume as its only
augmentation, and its rate: 0.01 for every 16 clips of a step, so 0.04 for the 64 of these runs, constant after a
warm-up from 0.01 over 2 epochs, which is a twentieth of the training as in the paper. `published-fast-rate` has the
rate of `small.yaml` instead, so that a rate that is too low for so few steps is not what decides.

It differs from the paper in what all rows share: smaller encoders and inputs, 40 or 45 epochs of a few hundred to two
thousand clips for 200 epochs of VGG-Sound, a labelling an epoch for one every second, one device of 64 clips for 64 of
16, and the departures that [docs/method.md](../method.md) names (order of the marginals, exact alignment, Slaney's
mel filters).

The sound's `shift_time` on AV-digits and AV-stamps is an augmentation that the paper does not have: there a word begins
at random, and it is off in the row `published`."""


def _tried(tried: Sequence[Run]) -> str:
    if not tried:
        return ""
    cells = []
    for run in tried:
        set_name, name = run["row"].split(", ", 1)
        split = next(one.judged_on for one in SETS.values() if one.name == set_name)
        commit = run["environment"]["git_commit"][:7]
        cells.append([set_name, name, str(run["seed"]), split, f"{_nmi(run, split):.3f}", commit])
    table = markdown_table(["set", "idea", "seed", "split", "NMI", "commit"], cells)
    return f"""An idea that was tried, measured and left: the first labels as one more vote, as strong as all modalities
together after a quarter of the steps and gone after three quarters. It mended AV-stamps, where the picture has not
learned them after a quarter, and cost AV-digits more, where both have. So they are now kept until every modality has
learned them (`labelling.first_learned`), and then given up at once.

{table}"""


def _failures(runs: Sequence[Run], rows: Mapping[str, str]) -> str:
    if not any(run["row"].endswith(", default") for run in runs):
        return "Nothing can be said before the default has been measured."
    lines = []
    for small_set in SETS.values():
        split, of_row = small_set.judged_on, _of_set(small_set, runs, rows)
        ours = of_row.get("default", [])
        for name, each in of_row.items():
            gains = _gains(ours, each, split)
            lost = sum(gain <= 0 for gain in gains)
            if name not in ("default", "kept") and lost:  # kept is the default at half its cost
                lines.append(f"- {small_set.name}: the default is not above `{name}` in {lost} of {len(gains)} seeds.")
            nmis = [_nmi(run, split) for run in each]
            if max(nmis) - min(nmis) > 0.1:
                lines.append(
                    f"- {small_set.name}: the seeds of `{name}` differ by {max(nmis) - min(nmis):.3f}, so its mean "
                    "says little."
                )
        behind = [run["seed"] for run in ours if _nmi(run, split) < (_own_kmeans(run, split) or 0.0)]
        if behind:
            named = ", ".join(map(str, behind))
            lines.append(f"- {small_set.name}: K-means on the default's own features is ahead of it, seed {named}.")
    return "\n".join(lines) if lines else "Nothing of what has been measured so far."


def _missing(runs: Sequence[Run], rows: Mapping[str, str]) -> str:
    lines = []
    for small_set in SETS.values():
        of_row = _of_set(small_set, runs, rows)
        absent = []
        for name in rows:
            seeds = [seed for seed in SEEDS if seed not in {run["seed"] for run in of_row.get(name, [])}]
            if seeds:
                absent.append(f"{name} ({' '.join(map(str, seeds))})")
        if absent:
            lines.append(f"- {small_set.name}, rows (seeds): {', '.join(absent)}.")
    return "\n".join(lines) if lines else "Nothing: three seeds of every row are there."


def _instrument(fast: Sequence[Run], rows: Mapping[str, str], settings: str) -> str:
    about = f"""Small encoders on small inputs, about two minutes of one core a run, to see what is worth a full run:
the same rows with `{settings}`.
**These figures are no results**: they say neither how good a recipe is nor, by less than the spread of their seeds,
which of two is better."""
    parts = [about]
    for small_set in SETS.values():
        of_row = _of_set(small_set, fast, rows)
        split = small_set.judged_on
        cells = [
            [
                name,
                _nmis(each, split),
                _alone(each, split),
                " ".join(f"{run['train_seconds'] / 60:.1f}" for run in each),
            ]
            for name, each in of_row.items()
        ]
        if cells:
            header = [f"instrument, {small_set.name}", f"{split} NMI", "each modality alone", "minutes"]
            parts.append(markdown_table(header, cells))
    return "\n\n".join(parts if len(parts) > 1 else [*parts, "Not run yet."])


def _made(runs: Sequence[Run]) -> str:
    if not runs:
        return "By `python benchmarks/labels.py`."
    places = sorted({_place(run) for run in runs})
    commits = sorted({(run["environment"]["git_commit"] or "unknown")[:12] for run in runs})
    imported = [run for run in runs if "imported" in run]
    example = next((run for run in runs if "imported" not in run), runs[0])
    parts = [
        f"By `python benchmarks/labels.py`, on {'; '.join(places)}; commits {', '.join(commits)} (each row's own is in "
        "[labels.json](../../benchmarks/results/labels.json), with its commands and settings). Minutes are those of "
        "training as a whole, start and decoding included, on machines that did other work beside it.",
        "One row and seed is made by:",
        "```\n" + "\n".join(example["commands"]) + "\n```",
    ]
    if imported:
        seeds: dict[tuple[str, str], list[str]] = {}
        for run in imported:
            seeds.setdefault((run["row"], run["imported"].split(", ")[-1]), []).append(str(run["seed"]))
        named = "\n".join(f"- {row} = {recipe} there, seeds {' '.join(each)}" for (row, recipe), each in seeds.items())
        parts.append(
            "Not trained again but taken from [recipes.md](recipes.md), with the commit and the commands of then, "
            f"because their settings were the same at that commit, compared one by one:\n\n{named}"
        )
    return "\n\n".join(parts)


def _place(run: Run) -> str:
    made = run["environment"]
    processor = f"{made['machine']['processor']}, {made['machine']['cores']} cores"
    return f"{processor}, no GPU" if made["device"] == "cpu" else f"{processor}, {made['device']}"


def _of_set(small_set: SmallSet, runs: Sequence[Run], rows: Mapping[str, str]) -> Rows:
    """The runs of a set by the name of their row, in the order of the rows; rows that are gone come last."""
    of_row: Rows = {}
    for run in runs:
        title, _, name = run["row"].partition(", ")
        if title == small_set.name:
            of_row.setdefault(name, []).append(run)
    names = [*(name for name in rows if name in of_row), *(name for name in of_row if name not in rows)]
    return {name: sorted(of_row[name], key=lambda run: run["seed"]) for name in names}


def _nmi(run: Run, split: str) -> float:
    """NMI of the head that was chosen without labels."""
    return float(run["splits"][split]["chosen"]["nmi"])


def _nmis(each: Sequence[Run], split: str) -> str:
    return spread([_nmi(run, split) for run in each])


def _own_kmeans(run: Run, split: str) -> float | None:
    """NMI of K-means on all features of the run's own encoders; None where it was not done."""
    measured = run["splits"][split].get("kmeans", {})
    names = [name for name in measured if name.startswith("kmeans on ") and "untrained" not in name]
    return float(measured[max(names, key=len)]["nmi"]) if names else None


def _gains(ours: Sequence[Run], others: Sequence[Run], split: str) -> list[float]:
    """NMI of ours less theirs, for each seed that both have."""
    by_seed = {run["seed"]: _nmi(run, split) for run in others}
    return [_nmi(run, split) - by_seed[run["seed"]] for run in ours if run["seed"] in by_seed]


def _gain(ours: Sequence[Run], others: Sequence[Run], split: str) -> str:
    gains = _gains(ours, others, split)
    return _told(gains) if gains else "no seed in common yet"


def _told(gains: Sequence[float]) -> str:
    ahead = sum(gain > 0 for gain in gains)
    return f"NMI higher in {ahead} of {len(gains)} seeds, by {mean(gains):+.3f} on average"
