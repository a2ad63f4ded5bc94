"""Of two things in a picture, does the evidence lie on the one that is named?

    python benchmarks/pairs.py runs/refine/avstamps-seed*   figures and page; two minutes a run

AV-stamps has clips in which two cut-out pictures of different classes move and a voice names one of them; the set says
where both lie in the tenth frame.  The sound alone says which cluster it is, by the head that is chosen without labels.
The evidence for that cluster in the picture is compared between the two boxes: by what they hold of it on average, and
by which of them has its largest value.  So are the windows for it (`selavi localise --maps windows`), and those for
every cluster, each weighted by the probability that the sound gives it (`--maps heard`); both are taken from their
least value, since they may be negative in both boxes.  The set is not distributed.
"""

import argparse
import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import describe_machine, environment, markdown_table, publish
from mixtures import window_maps
from small_sets import find_sets

from datamodules.clips import prepare_data
from datamodules.index.manifest import usable
from datamodules.loading.views import ClipLoaders
from selavi.commands.opening import open_run
from selavi.inference.load import load_model
from selavi.localisation.boxes import SIDE as CELLS
from selavi.localisation.boxes import map_at
from selavi.localisation.evidence import PICTURED, find_evidence, input_shape
from selavi.runs.record import Run, on_other_clips
from selavi.scores.head_choice import choose_head

FRAME_S, CLIP_S, SIDE = 9.5 / 12, 1.5, 96
"""The middle of the frame that the boxes are of, the length of a clip, and pixels along each side of a picture."""
HEARD = "audio"
MATERIALS = ("train", "test")
EVIDENCE, WINDOWS, EXPECTED = "evidence", "windows", "windows, by probability"
CENTRE, MOVED = "nearer to the middle", "changes more"
RULES = (*(f"{name}, {rule}" for name in (EVIDENCE, WINDOWS, EXPECTED) for rule in ("mean", "largest")), CENTRE, MOVED)
NUM_DRAWS = 10_000


def boxes_of(row: Mapping[str, str]) -> list[np.ndarray]:
    """Masks (CELLS, CELLS) of the boxes: that of the thing that is named, then that of the other."""
    masks = []
    for which in ("a", "b") if row["sounds"] == "a" else ("b", "a"):
        left, top, width, height = (int(row[f"box_{which}_{edge}"]) * CELLS / SIDE for edge in "xywh")
        mask = np.zeros((CELLS, CELLS), bool)
        mask[round(top) : round(top + height), round(left) : round(left + width)] = True
        masks.append(mask)
    return masks


def look(run: Run, root: Path) -> Iterator[tuple[str, dict[str, np.ndarray], np.ndarray]]:
    """File name, maps (CELLS, CELLS) for what is heard, and how much each pixel changes, of each clip."""
    config = on_other_clips(run, [f"data.root={root}", "data.layout=flat"])
    manifest, media = prepare_data(config)
    rows = usable(manifest)
    model, augment = load_model(run, torch.device("cpu"))
    bank = run.checkpoint["label_bank"]
    head = choose_head(bank["labels"].numpy(), probe=bank["probe"].numpy()).head
    seen = input_shape(run.config, PICTURED)
    share = (FRAME_S - (CLIP_S - config.data.clip_s) / 2) / config.data.clip_s
    paths = rows["path"].to_pylist()
    for batch in ClipLoaders(config, manifest, media).view_loader(rows):
        with torch.no_grad():
            features = model.features(augment(batch, random=False))
            heard = model.logits(features)[HEARD][head].softmax(1)
        named = heard.argmax(1)
        weights = {WINDOWS: F.one_hot(named, heard.shape[1]), EXPECTED: heard}
        of_windows = window_maps(model, augment, batch, weights, head, run.config)
        maps = {
            EVIDENCE: find_evidence(model, augment, batch, named, head, run.config)[PICTURED],
            **{name: values - values.amin((1, 2, 3), keepdim=True) for name, values in of_windows.items()},
        }
        frames = batch.inputs[PICTURED].float()
        changes = (frames - frames.median(1, keepdim=True).values).abs().mean(4)
        for place, number in enumerate(batch.index.tolist()):
            change = changes[place].numpy()
            shown = {name: map_at(values[place].numpy(), seen, share) for name, values in maps.items()}
            yield Path(paths[number]).name, shown, map_at(change, change.shape, share)


def judge(named: np.ndarray, other: np.ndarray, maps: Mapping[str, np.ndarray], change: np.ndarray) -> dict[str, bool]:
    """Which rule picks the thing that is named; of equal values none does."""
    grid = np.stack(np.meshgrid(np.arange(CELLS), np.arange(CELLS), indexing="ij"), 2) - (CELLS - 1) / 2

    def distance(mask: np.ndarray) -> float:
        return float(np.linalg.norm(grid[mask].mean(0)))

    return {
        **{f"{name}, mean": bool(values[named].mean() > values[other].mean()) for name, values in maps.items()},
        **{f"{name}, largest": bool(values[named].max() > values[other].max()) for name, values in maps.items()},
        CENTRE: distance(named) < distance(other),
        MOVED: bool(change[named].mean() > change[other].mean()),
    }


def measure(runs: Sequence[Path], set_folder: Path) -> list[dict[str, Any]]:
    """A row for each run and material: of its clips, by name, 1 where a rule is right, else 0."""
    with (set_folder / "pairs.csv").open(newline="", encoding="utf-8") as file:
        pairs = {Path(row["path"]).name: row for row in csv.DictReader(file)}
    rows = []
    for path in runs:
        run = open_run(path, str(set_folder))
        judged = {
            name: judge(*boxes_of(pairs[name]), maps, change) for name, maps, change in look(run, set_folder / "pairs")
        }
        for material in MATERIALS:
            names = sorted(name for name in judged if pairs[name]["material"] == material)
            right = {rule: "".join(str(int(judged[name][rule])) for name in names) for rule in RULES}
            rows.append({"row": path.name, "material": material, "right": right, "environment": environment(path)})
    return rows


def interval(shares: np.ndarray) -> tuple[float, float]:
    """95 % interval of the mean of clips (N,), by drawing clips anew."""
    rng = np.random.default_rng(0)
    means = shares[rng.integers(len(shares), size=(NUM_DRAWS, len(shares)))].mean(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """docs/results/pairs.md."""
    table = []
    for material in MATERIALS:
        shown = [row["right"] for row in rows if row["material"] == material]
        for rule in RULES:
            right = np.array([[int(letter) for letter in of_run[rule]] for of_run in shown])
            low, high = interval(right.mean(0))
            each = ", ".join(f"{share:.2f}" for share in right.mean(1))
            table.append([material, rule, f"{right.mean():.2f} ({low:.2f} to {high:.2f})", each, f"{right.shape[1]}"])
    header = ["material", "rule", "right (95 % interval)", "each run", "clips"]
    return f"""# Two things, one is named

{(__doc__ or "").strip().split(chr(10) * 2)[0]}

{(__doc__ or "").strip().split(chr(10) * 2)[2]}

Chance is 0.50. *Train* pairs show pictures and words of the training clips, *test* pairs others, in other languages.
Runs: {len({row["row"] for row in rows})}, row *default* of [labels.md](labels.md), beside two rules that hear nothing.
The interval is that of the mean of the runs, over the clips.

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
