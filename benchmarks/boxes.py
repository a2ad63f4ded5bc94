"""Does the evidence for a cluster lie on the thing that is seen, beside what needs no model?

    python benchmarks/boxes.py runs/refine/avstamps-seed*   figures and page; six minutes a run

Runs on AV-stamps (row default of labels.py), whose boxes say where the cut-out picture lies in the tenth frame.
`selavi localise` compares them with the maps of the head that is chosen without labels, of all kinds (`--maps`).  The
set is not distributed.
"""

import argparse
import csv
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from common import describe_machine, environment, markdown_table, mean_and_range, publish
from small_sets import find_sets

from selavi.commands.localise import MAPS, OWN, LocaliseArguments, localise

OTHER = "another clip's map"
SPLITS = ("train", "test")
FRAME_S, SIDE = 9.5 / 12, 96
"""The middle of the frame that the boxes are of, and pixels along each side of it."""
FIGURES = {"pointing": "pointing", "mean_iou": "IoU", "success": "success", "area": "area", "pixel_precision": "pixels"}


def write_boxes(set_folder: Path, split: str, path: Path) -> None:
    """The set's own list of boxes as a table for `selavi localise`."""
    with (set_folder / f"{split}.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "time_s", "x", "y", "w", "h"])
        for row in rows:
            writer.writerow([row["path"], FRAME_S, *(int(row[f"box_{edge}"]) / SIDE for edge in "xywh")])


def measure(runs: Sequence[Path], set_folder: Path) -> list[dict[str, Any]]:
    """A row for each run and split, with the figures of its maps and of each prior."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for split in SPLITS:
            table = Path(folder) / f"{split}.csv"
            write_boxes(set_folder, split, table)
            for run in runs:
                figures: dict[str, dict[str, Any]] = {}
                for maps in MAPS:
                    result = localise(LocaliseArguments(run, table, split=split, root=str(set_folder), maps=maps))
                    assert result.measured is not None  # there are annotations
                    of_kind = {name: asdict(row) for name, row in result.measured.figures.items()}
                    own = {f"{maps}: {name}": of_kind.pop(name) for name in (OWN, OTHER)}
                    figures = {**figures, **own, **of_kind}
                about = {"row": run.name, "split": split, "head": result.head, "environment": environment(run)}
                rows.append({**about, "figures": figures, "notes": list(result.measured.notes)})
    return rows


def page(rows: Sequence[Mapping[str, Any]]) -> str:
    """docs/results/boxes.md."""
    parts = []
    for split in SPLITS:
        shown = [row for row in rows if row["split"] == split]
        table = []
        for name in sorted(shown[0]["figures"], key=lambda name: ":" not in name):  # maps, then what needs no model
            cells = [[row["figures"][name][figure] for row in shown] for figure in FIGURES]
            table.append([name, *map(mean_and_range, cells)])
        pictures = {row["figures"]["whole picture"]["num_pictures"] for row in shown}
        about = f"{', '.join(f'{count:,}' for count in pictures)} pictures, {len(shown)} runs"
        parts.append(f"## {split.capitalize()} clips: {about}\n\n{markdown_table(['', *FIGURES.values()], table)}")
    tables = "\n\n".join(parts)
    return f"""# Evidence beside boxes

{(__doc__ or "").split(chr(10) * 2)[0]}

Runs on AV-stamps (row *default* of [labels.md](labels.md)): a cut-out picture moves over a background that does not,
and a voice names it. The set's boxes say where it lies in one frame of each clip. The figures are those of
[evidence.md](../evidence.md#beside-boxes-of-your-own), of all kinds of maps; mean over the runs, and their range.

{tables}

{_conclusion(rows)}

{describe_machine(rows)} By `python benchmarks/boxes.py`.
"""


def _conclusion(rows: Sequence[Mapping[str, Any]]) -> str:
    """What the tables say, with their figures."""

    def pointing(name: str) -> str:
        return " and ".join(
            f"{np.mean([row['figures'][name]['pointing'] for row in rows if row['split'] == split]):.0%}"
            for split in SPLITS
        )

    return (
        f"Evidence points into the box in {pointing(f'evidence: {OWN}')} of the pictures (training and test clips), "
        f"another clip's in {pointing(f'evidence: {OTHER}')}; windows in {pointing(f'windows: {OWN}')}, windows for "
        f"what is heard in {pointing(f'heard: {OWN}')}, contrast in {pointing(f'contrast: {OWN}')}; the middle of the "
        f"picture in {pointing('centre disc')}. Without any model, the change from frame to frame does in "
        f"{pointing('frame difference')}, since nothing but the thing moves here, and the difference of a colour from "
        f"the picture's median in {pointing('colour contrast')}. Evidence and windows say what part of the picture the "
        "model goes by; whoever wants to find things does better by contrast, and best by motion."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    args = parser.parse_args()
    folders = find_sets(["av_stamps"])
    if not folders:
        return
    rows = measure(args.runs, next(iter(folders.values())))
    publish("boxes", "Evidence beside boxes", rows, page(rows))


if __name__ == "__main__":
    main()
