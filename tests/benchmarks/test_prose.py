"""Figures in prose are those of benchmarks/results: each sentence that has some is written again and looked for."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from selavi.config import load_config
from selavi.training.forecast import labelling_share

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("common", "sounding", "small_sets", "mixtures", "pairs", "final_labels")
Modules = dict[str, ModuleType]


def result(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def runs(name: str) -> list[dict[str, Any]]:
    return list(result(name)["runs"])


def evidence_on_the_demo_set(_: Modules) -> list[float]:
    rows = {run["map"]: run for run in runs("evidence") if run["modality"] == "video"}
    shown = rows["7 positions a side"]
    priors = [
        rows[f"no model: {name}"]["hit"] for name in ("centre", "difference from the median frame", "colour contrast")
    ]
    return [100 * share for share in (shown["hit"], shown["hit_other"], *priors)]


def contrast(_: Modules) -> list[float]:
    rows = [run["figures"] for run in runs("contrast")]
    names = ("contrast", "evidence", "no model: frame difference")
    pointing = [100 * np.mean([row[name]["mask"] for row in rows]) for name in names]
    losses = {
        run["map"]: run["loss"] for run in runs("evidence") if run["modality"] == "video" and not run.get("prior")
    }
    changed = [
        100 * np.mean([run[which]["contrast"]["mask"] for run in runs("contrast")]) for which in ("busy", "shaken")
    ]
    return [*pointing, *changed, losses["contrast"], losses["7 positions a side"]]


def mixtures(modules: Modules, *names: str) -> list[float]:
    """Percent of the mixtures in which most of a map lies in the quarter that sounds."""
    module = modules["mixtures"]
    return [100 * module.share_of(runs("mixtures"), f"{name}: most of it").mean() for name in names]


def windows_in_mixtures(modules: Modules) -> list[float]:
    module = modules["mixtures"]
    together, named, expected = mixtures(modules, module.WINDOWS_TOGETHER, module.NAMED, module.EXPECTED)
    return [together, max(named, expected)]


def heard_in_mixtures(modules: Modules) -> list[float]:
    return mixtures(modules, modules["mixtures"].WINDOWS_EXPECTED)


def evidence_in_mixtures(modules: Modules) -> list[float]:
    module = modules["mixtures"]
    named, own, change, windows_named, windows_own = mixtures(
        modules, module.NAMED, module.OWN, module.CHANGED, module.WINDOWS_NAMED, module.WINDOWS_OWN
    )
    low, high = module.wilson(named / 100, runs("mixtures")[0]["clips"])
    return [named, 100 * low, 100 * high, own, change, windows_named, windows_own]


def boxes(_: Modules) -> list[float]:
    rows = [run["figures"] for run in runs("boxes") if run["split"] == "train"]
    return [100 * np.mean([row[f"{kind}: map"]["pointing"] for row in rows]) for kind in ("windows", "evidence")]


def sounding(_: Modules) -> list[float]:
    rows = [run for run in runs("sounding") if run["measure"] == "score (the column)"]
    silence, sound, noise = (
        np.mean([run["average_precision"] for run in rows if run["other"] == other])
        for other in ("silence", "another clip's sound", "noise")
    )
    return [min(silence, sound), noise]


def segments(_: Modules) -> list[float]:
    return [np.mean([run["nmi"][name] for run in runs("segments")]) for name in ("inside the map", "whole picture")]


def pairs(modules: Modules) -> list[float]:
    """The two kinds on training material with their intervals, then on test material."""
    values = []
    for material in ("train", "test"):
        for rule in ("evidence, mean", "windows, by probability, mean"):
            texts = [run["right"][rule] for run in runs("pairs") if run["material"] == material]
            right = np.array([[int(letter) for letter in text] for text in texts])
            ends = modules["pairs"].interval(right.mean(0)) if material == "train" else ()
            values += [100 * share for share in (right.mean(), *ends)]
    return values


def refitted(modules: Modules) -> list[float]:
    """Of the head that is chosen without labels, on training clips and on unseen ones."""
    rules = [run["rules"] for run in runs("final_labels")]
    train, test = (
        [rule["refit, mlp heads, chosen"][split] - rule[modules["final_labels"].REFERENCE][split] for rule in rules]
        for split in ("train", "test")
    )
    better = [sum(gain > 0 for gain in gains) for gains in (train, test)]
    return [better[0], len(train), min(train), max(train), np.mean(train), better[1], min(test), max(test)]


def drawn_vectors(_: Modules) -> list[float]:
    drawn = result("vectors")["drawn"]
    kmeans = {name: np.mean(values) for name, values in drawn["K-means"].items()}
    return [drawn["clips"], drawn["joint"]["nmi"], kmeans["one+two"], kmeans["one"], drawn["one alone"]["nmi"]]


def crafted_vectors(_: Modules) -> list[float]:
    sets, values = result("vectors")["sets"], []
    for name, split in (("AV-objects", "test"), ("AV-digits", "test"), ("AV-stamps", "train")):
        values.append(np.mean([sets[f"{name}, joint, {seed}"][split] for seed in range(3)]))
        values.append(np.mean(sets[f"{name}, K-means"][split]["kmeans on video+audio"]))
    return values


def kept_features(_: Modules) -> list[float]:
    """NMI less that of the default, and the clips encoded as percent of its, on the three sets."""
    rows = {(run["row"], run["seed"]): run for run in runs("labels")}
    gains, shares = [], []
    for name, split in (("AV-objects", "test"), ("AV-digits", "test"), ("AV-stamps", "train")):
        pairs = [[rows[f"{name}, {row}", seed] for row in ("kept", "default")] for seed in range(3)]
        scores = [[run["splits"][split]["chosen"]["nmi"] for run in pair] for pair in pairs]
        gains.append(np.mean([kept - plain for kept, plain in scores]))
        kept, plain = (sum(run["encoded"].values()) for run in pairs[0])
        shares.append(100 * kept / plain)
    return [*gains, *shares]


def labellings_that_cost(_: Modules) -> list[float]:
    settings = ["trainer.max_epochs=20", "labelling.num_labellings=100"]
    shares = []
    for first in ("random", "crafted"):
        config = load_config(ROOT / "configs" / "small.yaml", [*settings, f"labelling.first={first}"])
        shares.append(100 * labelling_share(config, 100))
    return shares


def kills(_: Modules) -> list[float]:
    return [sum(len(run["lives"]) for run in runs("killed"))]


def interrupted_files(_: Modules) -> list[float]:
    return [result("interrupted")["num_files"]]


def time_to_labels(_: Modules) -> list[float]:
    seconds = [entry["figures"]["seconds"] for name, entry in result("transport").items() if "labels, " in name]
    ours, theirs = ([each[way] for each in seconds] for way in ("ours, cold", "scaling, original rule"))
    return [min(ours), max(ours), min(theirs), max(theirs)]


def picture_alone(_: Modules) -> list[float]:
    rows = [run for run in runs("labels") if run["row"] == "AV-digits, sela-video"]
    values = [run["splits"]["test"]["chosen"]["nmi"] for run in rows]
    return [min(values), max(values)]


QUOTED: list[tuple[str, str, Callable[[Modules], Sequence[float]]]] = [
    (
        "docs/evidence.md",
        "lies on a drawn object in {:.0f} % of the clips ({:.0f} % with another clip's map). The middle of the picture "
        "does in {:.0f} %, the place that differs most from the clip's median frame in {:.0f} %, and the one whose "
        "colour differs most from the picture's median colour in {:.0f} %",
        evidence_on_the_demo_set,
    ),
    (
        "docs/evidence.md",
        "its maximum lies on what moves in {:.0f} % of the clips, with three seeds; evidence does in {:.0f} %, the "
        "change from frame to frame in {:.0f} %. Before mosaics in place of the backgrounds contrast does in {:.0f} %, "
        "where the camera shakes in {:.0f} % ([results](results/contrast.md)). Covering what it marks also lowers the "
        "probability of the clip's cluster more than covering what the evidence marks ({:.2f} nats and {:.2f},",
        contrast,
    ),
    (
        "docs/evidence.md",
        "the one that sounds in {:.0f} % of the mixtures, for the cluster that sound and picture name together as a "
        "label does (evidence: {:.0f} % at best; chance: 25 %).",
        windows_in_mixtures,
    ),
    ("docs/evidence.md", "it finds the scene that sounds in {:.0f} % (", heard_in_mixtures),
    ("CHANGELOG.md", "scenes, it finds the one that sounds in {:.0f} % (", heard_in_mixtures),
    ("docs/evidence.md", "({:.0f} % and {:.0f} % on AV-stamps, [results](results/boxes.md))", boxes),
    (
        "docs/evidence.md",
        "(average precision {:.2f}, where half of what is ranked is the own), and from noise as loud with {:.2f}",
        sounding,
    ),
    ("docs/evidence.md", "the NMI with the classes is {:.2f}, and {:.2f} with plain means", segments),
    (
        "docs/evidence.md",
        "lies on that one in {:.0f} % of the pairs of training material (95 % interval {:.0f} to {:.0f}; chance is "
        "50), and windows for what is heard choose it in {:.0f} % ({:.0f} to {:.0f}). Of pairs with pictures "
        "and languages that training never had, neither kind chooses the right one clearly more often than chance "
        "({:.0f} % and {:.0f} %,",
        pairs,
    ),
    (
        "docs/evidence.md",
        "holds the most of the evidence for what is heard in {:.0f} % of the mixtures (95 % interval {:.0f} to {:.0f}; "
        "chance is 25), and in {:.0f} % where the maps are told the cluster. Nor does the change from frame to frame "
        "find it ({:.0f} %). Windows do, in {:.0f} % for the cluster that the sound names and in {:.0f} % where they",
        evidence_in_mixtures,
    ),
    (
        "docs/metrics.md",
        "better than those of the run's own chosen head in {} of {} runs (NMI by {:+.2f} to {:+.2f}, on average by "
        "{:+.2f}), on unseen clips in {} (by {:+.2f} to {:+.2f};",
        refitted,
    ),
    (
        "docs/features.md",
        "On {:,} drawn clips, of whose 309 classes each of two spaces knows half, they have an NMI of {:.3f}, K-means "
        "on both side by side {:.3f}, and on each {:.2f}. Where K-means does not agree with itself, as there on a "
        "single space, new heads label from the first step on, and of hundreds of clusters they find little: {:.2f}.",
        drawn_vectors,
    ),
    (
        "docs/features.md",
        "(unseen clips of AV-objects {:.3f} against {:.3f}, of AV-digits {:.3f} against {:.3f}; training clips of "
        "AV-stamps {:.3f} against {:.3f})",
        crafted_vectors,
    ),
    (
        "docs/method.md",
        "the NMI of these labels differs from that with passes by {:+.3f}, {:+.3f} and {:+.3f}, at {:.0f}, {:.0f} and "
        "{:.0f} % of the clips encoded",
        kept_features,
    ),
    ("docs/reliability.md", "spends {:.0f} % on them (`labelling.first=random`), or {:.0f} %", labellings_that_cost),
    ("docs/reliability.md", "its evaluation and its gallery, killed or stopped {} times;", kills),
    ("docs/data.md", "[{:,} files, killed half way](results/interrupted.md)", interrupted_files),
    (
        "docs/results/degradation_avdigits.md",
        "(*sela-video*) is not drawn: it has an NMI of {:.2f} to {:.2f} there, undegraded",
        picture_alone,
    ),
    (
        "CHANGELOG.md",
        "it finds the one that sounds in {:.0f} % where evidence does in {:.0f} %;",
        windows_in_mixtures,
    ),
    (
        "CHANGELOG.md",
        "170,752 clips and 309 clusters take {:.2f} to {:.2f} s on two cores, where Sinkhorn's algorithm takes {:.1f} "
        "to {:.1f} s",
        time_to_labels,
    ),
]


@pytest.mark.parametrize(
    ("page", "sentence", "figures"), QUOTED, ids=[f"{page}: {figures.__name__}" for page, _, figures in QUOTED]
)
def test_prose_quotes_the_results(
    benchmarks: Modules, page: str, sentence: str, figures: Callable[[Modules], Sequence[float]]
) -> None:
    text = " ".join((ROOT / page).read_text(encoding="utf-8").split())
    assert sentence.format(*figures(benchmarks)) in text
