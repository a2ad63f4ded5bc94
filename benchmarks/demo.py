"""The demo's figures: video and sound together, each alone, and what trivial features reach, on several seeds.

python benchmarks/demo.py                  docs/results/demo.md and the README's table (finished runs are kept)
python benchmarks/demo.py --ablation       also without the augmentation of pitch and tone
python benchmarks/demo.py --seeds 0 --trial trainer.max_epochs=1     a trial; its figures are printed, not published
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from common import ROOT, Job, describe_machine, describe_seeds, fill, markdown_table, publish, rows_of, run_job, spread

MODALITIES = {
    "video and sound": (),
    "video alone": ("modalities=[video]",),
    "sound alone": ("modalities=[audio]",),
}
FRESH = "video and sound, all clips encoded anew for each labelling"
ABLATIONS = {
    FRESH: ("labelling.features=fresh",),
    "video and sound, no pitch or tone augmentation": ("audio.shift_mel=0", "audio.tone_jitter=0"),
}
COLUMNS = {"nmi": "NMI", "ari": "ARI", "accuracy": "accuracy"}


def jobs(seeds: Sequence[int], ablation: bool, trial: Sequence[str]) -> list[Job]:
    """Every training: the first row and FRESH in turns, with every seed; the others with one, to keep it short.

    The yardsticks depend on the data alone and are taken once.
    """
    rows = MODALITIES | (ABLATIONS if ablation else {})
    on_all = [row for row in ("video and sound", FRESH) if row in rows]
    order = [(row, seed) for seed in seeds for row in on_all]
    order += [(row, seeds[0]) for row in rows if row not in on_all]
    return [
        Job(
            slug="demo",
            name=f"{row.replace(',', '').replace(' ', '-')}-seed{seed}",
            row=row,
            seed=seed,
            config="configs/demo.yaml",
            overrides=(*rows[row], *trial),
            splits=("train", "test"),
            yardsticks=row == "video and sound" and seed == seeds[0],
        )
        for row, seed in order
    ]


def page(runs: Sequence[Mapping[str, Any]]) -> str:
    """docs/results/demo.md."""
    header = [
        "trained on",
        *(f"test {name}" for name in COLUMNS.values()),
        "train NMI",
        "best head, test NMI",
        "seconds",
    ]
    rows = []
    for row, of_row in rows_of(runs).items():
        tests = [run["splits"]["test"] for run in of_row]
        rows.append(
            [
                row,
                *(spread([test["chosen"][column] for test in tests]) for column in COLUMNS),
                spread([run["splits"]["train"]["chosen"]["nmi"] for run in of_row]),
                spread([test["oracle"]["nmi"] for test in tests]),
                " ".join(f"{run['train_seconds']:.0f}" for run in of_row),
            ]
        )
    yardsticks = runs[0]["splits"]["test"]["yardsticks"]
    commands = "\n".join(command for of_row in rows_of(runs).values() for command in of_row[0]["commands"])
    everything = "python benchmarks/demo.py" + (" --ablation" if ABLATIONS.keys() & rows_of(runs).keys() else "")
    counts = runs[0]["splits"]
    return f"""# The demo, measured

The generated demo set: {counts["train"]["chosen"]["n"]} training clips and {counts["test"]["chosen"]["n"]} test clips
of eight classes that share five looks and five sounds, so that neither modality alone can tell all of them apart
(`datamodules/synthetic.py`). {describe_seeds(runs)}
No label takes part in training, nor in the choice of the head whose figures stand here; the best head could be found
with labels only.

{markdown_table(header, rows)}

Seconds are those of `tools/train.py` as a whole, start and decoding included; the first run also generates the set.
{_gain(runs)}

## Is there a back door?

NMI on the test clips of K-means with eight clusters on features that look at no event and listen to none:

{markdown_table(["feature", "test NMI"], [[name, f"{value:.3f}"] for name, value in yardsticks.items()])}

{describe_machine(runs)}

## The commands

`{everything}` runs all of it. With the first seed these are

```
{commands}
```
"""


def _gain(runs: Sequence[Mapping[str, Any]]) -> str:
    """How much faster labellings from the features of the steps make a training, as a ratio of its seconds."""
    of_rows = rows_of(runs)
    if FRESH not in of_rows:
        return ""
    kept, fresh = ([float(run["train_seconds"]) for run in of_rows[row]] for row in ("video and sound", FRESH))
    each = ", ".join(f"{one / other:.2f}" for one, other in zip(fresh, kept, strict=True))
    return (
        f"Encoding all clips anew for each labelling takes {each} times as long, seed by seed; they trained in turns."
    )


def readme_numbers(runs: Sequence[Mapping[str, Any]]) -> str:
    """What README.md says of the demo."""
    num_seeds = len(rows_of(runs)["video and sound"])
    shown = {row: of_row for row, of_row in rows_of(runs).items() if row != FRESH}
    rows = [[row, *map(_range, _nmi(of_row)), f"{_minutes(of_row):.1f}"] for row, of_row in shown.items()]
    yardsticks = runs[0]["splits"]["test"]["yardsticks"]
    crude = ", ".join(f"{name} {value:.2f}" for name, value in yardsticks.items())
    return f"""{markdown_table(["trained on", "NMI, training clips", "NMI, unseen clips", "minutes"], rows)}

Both together: lowest and highest of {num_seeds} seeds; the others: one seed. NMI is 1 where clusters and classes are
the same and near 0 where they have nothing to do with each other. K-means on features without content, for
comparison: {crude}.
{describe_machine(runs)}
All of it: [docs/results/demo.md](docs/results/demo.md).
"""


def _nmi(runs: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    return [[run["splits"][split]["chosen"]["nmi"] for run in runs] for split in ("train", "test")]


def _range(values: Sequence[float]) -> str:
    lowest, highest = f"{min(values):.2f}", f"{max(values):.2f}"
    return lowest if lowest == highest else f"{lowest} to {highest}"


def _minutes(runs: Sequence[Mapping[str, Any]]) -> float:
    return max(float(run["train_seconds"]) for run in runs) / 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--ablation", action="store_true", help="also train without pitch and tone augmentation")
    parser.add_argument("--trial", nargs="+", default=[], metavar="KEY=VALUE", help="change every run, publish nothing")
    args = parser.parse_args()
    runs = [run_job(job, {}) for job in jobs(args.seeds, args.ablation, args.trial)]
    text = page(runs)
    print(text)
    if not args.trial:
        publish("demo", "The generated demo set", runs, text)
        readme = ROOT / "README.md"
        filled = fill(readme.read_text(encoding="utf-8"), "demo", readme_numbers(runs))
        readme.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    main()
