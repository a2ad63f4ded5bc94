"""Of two things in a picture, does the evidence lie on the one that is named?

    python benchmarks/pairs.py runs/refine/avstamps-seed*   figures and page; a minute a run

AV-stamps has clips in which two cut-out pictures of different classes move and a voice names one of them; the set says
where both lie in the tenth frame.  The sound alone says which cluster it is, by the head that is chosen without labels.
The evidence for that cluster in the picture is compared between the two boxes: by what they hold of it on average, and
by which of them has its largest value.  The set is not distributed.
"""

import argparse
import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import describe_machine, environment, markdown_table, publish
from scipy.stats import binomtest
from small_sets import find_sets

from datamodules.clips import prepare_data
from datamodules.index.manifest import usable
from datamodules.loading.views import ClipLoaders
from selavi.commands.opening import open_run
from selavi.inference.load import load_model
from selavi.localisation.boxes import SIDE as CELLS
from selavi.localisation.boxes import map_at
from selavi.localisation.evidence import PICTURED, find_evidence
from selavi.runs.record import Run, on_other_clips
from selavi.scores.head_choice import choose_head

FRAME_S, CLIP_S, SIDE = 9.5 / 12, 1.5, 96
"""The middle of the frame that the boxes are of, the length of a clip, and pixels along each side of a picture."""
HEARD = "audio"
MATERIALS = ("train", "test")
MEAN, LARGEST, CENTRE, MOVED = "evidence, mean", "evidence, largest", "nearer to the middle", "changes more"


def boxes_of(row: Mapping[str, str]) -> list[np.ndarray]:
    """Masks (CELLS, CELLS) of the boxes: that of the thing that is named, then that of the other."""
    masks = []
    for which in ("a", "b") if row["sounds"] == "a" else ("b", "a"):
        left, top, width, height = (int(row[f"box_{which}_{edge}"]) * CELLS / SIDE for edge in "xywh")
        mask = np.zeros((CELLS, CELLS), bool)
        mask[round(top) : round(top + height), round(left) : round(left + width)] = True
        masks.append(mask)
    return masks


def look(run: Run, root: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """File name, evidence (CELLS, CELLS) for the sound's cluster, and how much each pixel changes, of each clip."""
    config = on_other_clips(run, [f"data.root={root}", "data.layout=flat"])
    manifest, media = prepare_data(config)
    rows = usable(manifest)
    model, augment = load_model(run, torch.device("cpu"))
    bank = run.checkpoint["label_bank"]
    head = choose_head(bank["labels"].numpy(), probe=bank["probe"].numpy()).head
    share = (FRAME_S - (CLIP_S - config.data.clip_s) / 2) / config.data.clip_s
    paths = rows["path"].to_pylist()
    for batch in ClipLoaders(config, manifest, media).view_loader(rows):
        with torch.no_grad():
            features = model.features(augment(batch, random=False))
            clusters = model.logits(features)[HEARD][head].argmax(1)
        maps = find_evidence(model, augment, batch, clusters, head, run.config)[PICTURED]
        frames = batch.inputs[PICTURED].float()
        changes = (frames - frames.median(1, keepdim=True).values).abs().mean(4)
        for place, number in enumerate(batch.index.tolist()):
            yield Path(paths[number]).name, map_at(maps[place].numpy(), share), map_at(changes[place].numpy(), share)


def judge(named: np.ndarray, other: np.ndarray, evidence: np.ndarray, change: np.ndarray) -> dict[str, bool]:
    """Which rule picks the thing that is named; of equal values none does."""
    grid = np.stack(np.meshgrid(np.arange(CELLS), np.arange(CELLS), indexing="ij"), 2) - (CELLS - 1) / 2

    def distance(mask: np.ndarray) -> float:
        return float(np.linalg.norm(grid[mask].mean(0)))

    return {
        MEAN: bool(evidence[named].mean() > evidence[other].mean()),
        LARGEST: bool(evidence[named].max() > evidence[other].max()),
        CENTRE: distance(named) < distance(other),
        MOVED: bool(change[named].mean() > change[other].mean()),
    }


def measure(runs: Sequence[Path], set_folder: Path) -> list[dict[str, Any]]:
    """A row for each run and material: how many of its clips each rule is right about."""
    with (set_folder / "pairs.csv").open(newline="", encoding="utf-8") as file:
        pairs = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    rows = []
    for path in runs:
        run = open_run(path, str(set_folder))
        right: dict[str, list[dict[str, bool]]] = {material: [] for material in MATERIALS}
        for name, evidence, change in look(run, set_folder / "pairs"):
            right[pairs[name]["material"]].append(judge(*boxes_of(pairs[name]), evidence, change))
        for material, judged in right.items():
            counts = {rule: sum(one[rule] for one in judged) for rule in judged[0]}
            about = {"row": path.name, "material": material, "environment": environment(path)}
            rows.append({**about, "num_clips": len(judged), "right": counts})
    return rows


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """docs/results/pairs.md."""
    table = []
    for material in MATERIALS:
        shown = [row for row in rows if row["material"] == material]
        for rule in shown[0]["right"]:
            counts, num_clips = [row["right"][rule] for row in shown], sum(row["num_clips"] for row in shown)
            if rule in (CENTRE, MOVED):  # the same in every run
                counts, num_clips = counts[:1], shown[0]["num_clips"]
            interval = binomtest(sum(counts), num_clips).proportion_ci()
            share = f"{sum(counts) / num_clips:.2f} ({interval.low:.2f} to {interval.high:.2f})"
            table.append([material, rule, share, f"{num_clips:,}"])
    header = ["material", "rule", "right (95 % interval)", "clips, of all runs"]
    return f"""# Two things, one is named

{(__doc__ or "").strip().split(chr(10) * 2)[0]}

{(__doc__ or "").strip().split(chr(10) * 2)[2]}

Chance is 0.50. *Train* pairs show pictures and words of the training clips, *test* pairs others, in other languages.
Runs: {len({row["row"] for row in rows})}, row *default* of [labels.md](labels.md), beside two rules that hear nothing.

{markdown_table(header, table)}

{describe_machine(rows)} By `python benchmarks/pairs.py`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folders = find_sets(["av_stamps"])
    if not folders:
        return
    rows = measure(args.runs, next(iter(folders.values())))
    publish("pairs", "Two things, one is named", rows, page(rows))


if __name__ == "__main__":
    main()
