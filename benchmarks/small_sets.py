"""Figures on two small sets of real pictures and sounds: AV-objects and AV-digits.

    python benchmarks/small_sets.py                                  the table of docs/results/small_sets.md
    python benchmarks/small_sets.py --modalities both video audio    also each modality alone
    python benchmarks/small_sets.py --sets av_digits --trial trainer.max_epochs=1     a trial; printed, not published

The sets are not distributed.  They are looked for in $SELAVI_TESTDATA/data (else ../shared/data); one that is not
there is left out, and nothing is published then.
"""

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import ROOT, Job, describe_machine, describe_seeds, fill, markdown_table, publish, rows_of, run_job, spread

MODALITIES = {
    "both": ("video and sound", ()),
    "video": ("video alone", ("modalities=[video]",)),
    "audio": ("sound alone", ("modalities=[audio]",)),
}
COLUMNS = {"nmi": "NMI", "ari": "ARI", "accuracy": "accuracy"}


@dataclass(frozen=True)
class SmallSet:
    """One data set: where it is, how it is trained on, what a reader must know of it."""

    name: str
    folder: str
    overrides: tuple[str, ...]
    about: str
    quoted: str
    judged_on: str = "test"
    """Split whose figures count."""

    @property
    def variable(self) -> str:
        """Name that stands for the set's folder in commands."""
        return self.name.upper().replace("-", "_")


SETS = {
    "av_objects": SmallSet(
        name="AV-objects",
        folder="avobjects",
        overrides=("heads.num_clusters=9",),
        about=(
            "576 training and 180 test clips of nine everyday classes (accordion, big cat, bird, clock, dog, drone, "
            "helicopter, piano, rooster), 64 and 20 a class; 2 s, 112 x 112 pixels, 12 frames a second, 16 kHz mono. "
            "Drones, helicopters and birds are video cropped around the object (Drone-detection-dataset of "
            "DroneDetectionThesis, CC0); the others are photographs of Caltech-101 (CC BY 4.0) with pan and zoom. "
            "Sounds come from ESC-10 (karolpiczak/ESC-10, CC BY 3.0), from the drone set, and from YashNita's "
            "Animal-Sound-Dataset (no licence stated); accordion and piano are phrases rendered with the FluidR3_GM "
            "sound font. **Picture and sound are paired by class only**: they were not recorded together and share "
            "what they are of, nothing else."
        ),
        quoted="The set's README warns of one weak point: mean frame colour alone gives an NMI of about 0.3.",
    ),
    "av_digits": SmallSet(
        name="AV-digits",
        folder="avdigits",
        overrides=(
            "heads.num_clusters=10",
            "audio.shift_time=0.5",
            "trainer.max_epochs=45",
            "labelling.num_labellings=45",
        ),
        about=(
            "2,000 training and 500 test clips of the ten digits, 200 and 50 a class; 1.5 s, 64 x 64 pixels, 12 frames "
            "a second, 16 kHz mono. A handwritten digit (MNIST) moves and turns over a textured background in random "
            "colours, and the same digit is spoken (Free Spoken Digit Dataset, six speakers, CC BY-SA 4.0); it swells "
            "a little while the word lasts. No image and no recording occurs twice. **Picture and sound are paired by "
            "class only.**"
        ),
        quoted=(
            "From the set's README: a linear probe *with labels* (trained on train, measured on test) reaches an "
            "accuracy of 0.898 on log-mel statistics, 0.528 on HOG, 0.918 on both, 0.176 on mean colour and 0.118 on "
            "file size (chance 0.10). K-means on those raw features, without labels, reaches a test NMI of 0.16 on "
            "sound and 0.12 on pictures. So the set is hard without labels, and one run says little: the same settings "
            "and seed at a later commit, in [recipes.md](recipes.md), are well behind the row above."
        ),
    ),
    "av_stamps": SmallSet(
        name="AV-stamps",
        folder="avstamps",
        overrides=(
            "data.layout=splits",  # its folder `pairs` is a third split, without classes
            "heads.num_clusters=12",
            "audio.shift_time=0.5",
            "trainer.max_epochs=45",
            "labelling.num_labellings=45",
        ),
        about=(
            "1,440 training and 360 test clips of twelve things (apple, banana, bus, butterfly, camera, crown, hat, "
            "lion, penguin, pig, plane, violin), 120 and 30 a class; 1.5 s, 96 x 96 pixels, 12 frames a second, 16 kHz "
            "mono. A cut-out picture moves over a textured background, and a real voice says what it is (stamps and "
            "recordings of Tux Paint, Debian's tuxpaint-stamps-default, GPL-2). The words are of five languages in "
            "training (bg es fr ro ru) and of two others in the test (be ca), with other pictures, so that words and "
            "pictures carry over only by chance: **the set is judged on its training clips**, on which no label was "
            "used either. Every language occurs equally often in every class. **Picture and sound are paired by class "
            "only.** When a word begins is drawn at random and says nothing of the class, so the sound is shifted in "
            "time (`audio.shift_time`), as on AV-digits."
        ),
        quoted=(
            "From the set's README: K-means with 12 clusters reaches an NMI (train, test) of 0.10, 0.15 on log-mel "
            "statistics, 0.06, 0.13 on HOG, 0.04, 0.12 on a small grey picture, 0.02, 0.07 on mean colour; random "
            "labels have 0.02, 0.08. The sound alone clusters by language: K-means on it has 0.28 with the language. "
            "With labels, a linear probe reaches an accuracy of 0.756 on sound and 0.261 on HOG in five folds of the "
            "training clips (chance 0.083), and of 0.208 on sound where the language is left out. There are few "
            "pictures, one to five a class."
        ),
        judged_on="train",
    ),
}
PUBLISHED = ("av_objects", "av_digits")
"""The sets of docs/results/small_sets.md and recipes.md."""


def find_sets(names: Sequence[str]) -> dict[str, Path]:
    """Folder of each set that is here, by its variable; says which are not."""
    base = Path(os.environ.get("SELAVI_TESTDATA", ROOT.parent / "shared")) / "data"
    folders = {}
    for name in names:
        folder = base / SETS[name].folder
        if folder.is_dir():
            folders[SETS[name].variable] = folder.resolve()
        else:
            print(
                f"{SETS[name].name} is left out: no folder {folder}; set SELAVI_TESTDATA to the folder above data/",
                file=sys.stderr,
            )
    return folders


def jobs(small_set: SmallSet, modalities: Sequence[str], seeds: Sequence[int], trial: Sequence[str]) -> list[Job]:
    """Every training on one set."""
    return [
        Job(
            slug="small_sets",
            name=f"{small_set.folder}-{modality}-seed{seed}",
            row=f"{small_set.name}, {MODALITIES[modality][0]}",
            seed=seed,
            config="configs/small.yaml",
            overrides=(
                f"data.root=${small_set.variable}",
                *small_set.overrides,
                *MODALITIES[modality][1],
                *trial,
            ),
            splits=("train", "test"),
            yardsticks=modality == modalities[0] and seed == seeds[0],
        )
        for modality in modalities
        for seed in seeds
    ]


def page(runs: Sequence[Mapping[str, Any]]) -> str:
    """docs/results/small_sets.md."""
    header = ["set and modalities", *(f"{s} {n}" for s in ("train", "test") for n in COLUMNS.values()), "minutes"]
    rows = []
    for row, of_row in rows_of(runs).items():
        figures = [
            spread([run["splits"][split]["chosen"][column] for run in of_row])
            for split in ("train", "test")
            for column in COLUMNS
        ]
        rows.append([row, *figures, " ".join(f"{run['train_seconds'] / 60:.1f}" for run in of_row)])
    sections = []
    for small_set in SETS.values():
        found = [run for run in runs if run["row"].startswith(f"{small_set.name},")]
        if not found:
            continue
        first = found[0]["splits"]
        yardsticks = [
            [name, *(f"{first[split]['yardsticks'][name]:.3f}" for split in ("train", "test"))]
            for name in first["train"]["yardsticks"]
        ]
        commands = "\n".join(found[0]["commands"])
        sections.append(f"""## {small_set.name}

{small_set.about}

{small_set.quoted}

NMI of K-means, with as many clusters as classes, on features that hardly look or listen:

{markdown_table(["feature", "train", "test"], yardsticks)}

`${small_set.variable}` is the set's folder:

```
{commands}
```
""")
    details = "\n".join(sections)
    return f"""# Small sets of real pictures and sounds

Two sets that are **not distributed**: their public sources are named below, and they exist so that the method meets
pictures and sounds that no generator made. No label takes part in training, nor in the choice of the head whose
figures stand here; labels only score the result. The test clips were not seen in training. {describe_seeds(runs)}

{markdown_table(header, rows)}

Minutes are those of `tools/train.py` as a whole, start and decoding included.
{describe_machine(runs)}

{details}"""


def readme_numbers(runs: Sequence[Mapping[str, Any]]) -> str:
    """How long configs/small.yaml takes, unchanged but for the folder and K."""
    run = next(run for run in runs if run["row"].startswith("AV-objects, video and sound"))
    clips, minutes = run["splits"]["train"]["chosen"]["n"], run["train_seconds"] / 60
    cores = run["environment"]["machine"]["cores"]
    return (
        f"`small.yaml` took {minutes:.0f} minutes for {clips} clips of two seconds on {cores} cores without a GPU\n"
        "([measured](docs/results/small_sets.md)); the time grows with the number of clips."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(PUBLISHED))
    parser.add_argument("--modalities", nargs="+", choices=MODALITIES, default=["both"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--trial", nargs="+", default=[], metavar="KEY=VALUE", help="change every run, publish nothing")
    args = parser.parse_args()
    folders = find_sets(args.sets)
    here = [SETS[name] for name in args.sets if SETS[name].variable in folders]
    runs = [run_job(job, folders) for one in here for job in jobs(one, args.modalities, args.seeds, args.trial)]
    if not runs:
        return
    text = page(runs)
    print(text)
    if args.trial or [SETS[name] for name in PUBLISHED] != here:
        print("not published: a trial, or not the sets of the page", file=sys.stderr)
    else:
        publish("small_sets", "Small sets of real pictures and sounds", runs, text)
        readme = ROOT / "README.md"
        filled = fill(readme.read_text(encoding="utf-8"), "small", readme_numbers(runs))
        readme.write_text(filled, encoding="utf-8")


if __name__ == "__main__":
    main()
