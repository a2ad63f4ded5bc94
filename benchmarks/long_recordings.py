"""Long recordings: a day in pieces, its timeline, and what it costs to read one.

    python benchmarks/long_recordings.py                     all parts; results, page
    python benchmarks/long_recordings.py --parts labels      a part of it: labels, reading, planning
    python benchmarks/long_recordings.py --minutes 3 --hours 0.1     a trial; printed, not published

The recordings are generated (datamodules/synthetic.py: events of the demo's eight classes, one after the other).  What
is done is kept in benchmarks/results/long_recordings.json, and the runs in runs/benchmarks/long_recordings.
"""

import argparse
import csv
import json
import math
import resource
import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
from common import RESULTS, ROOT, machine, markdown_table, run_tool, show_page

from datamodules.index.cut import cut_evenly
from datamodules.index.manifest import usable
from datamodules.index.scan import scan
from datamodules.loading.views import ClipLoaders
from datamodules.synthetic import Event, generate_long
from selavi.atomic import write_text
from selavi.config import load_config
from selavi.media import decode_sound, stream_frames
from selavi.runs.manifest import SCHEMA
from selavi.scores.contingency import contingency_matrix
from selavi.scores.metrics import normalised_mutual_information

PLACE = ROOT / "runs" / "benchmarks" / "long_recordings"
SEEDS = (0, 1, 2)
CUT = ("data.cut=every", "data.cut_s=2.5")
LEARN = ("trainer.max_epochs=30", "labelling.num_labellings=60", "labelling.size_strength=3")
"""Events take as much of the time as they happen to: clusters of equal size would join some and part others."""
TOLERANCE_S = 1.0
RECORDINGS = {"trained on": 0, "never seen": 1}


def of_labels(minutes: float) -> dict[str, Any]:
    """Train on the pieces of one recording, then tell its timeline and that of another one."""
    place = PLACE / f"{minutes:g}min"
    events = {name: _generate(place / name, seed, 60 * minutes) for name, seed in RECORDINGS.items()}
    found: dict[str, Any] = {"minutes": minutes, "events": {name: len(of) for name, of in events.items()}, "runs": []}
    for seed in SEEDS:
        run, kept = place / f"run{seed}", place / f"run{seed}.json"
        if kept.exists():
            found["runs"].append(json.loads(kept.read_text(encoding="utf-8")))
            continue
        shutil.rmtree(run, ignore_errors=True)
        root = f"data.root={place / 'trained on'}"
        words = ["--config", "demo", root, "data.demo=false", *CUT, *LEARN, f"seed={seed}", f"run_dir={run}"]
        began = time.monotonic()
        run_tool(["tools/train.py", *words], {})
        row: dict[str, Any] = {"seed": seed, "seconds": round(time.monotonic() - began, 1)}
        run_tool(["tools/cluster_eval.py", str(run), "--split", "train"], {})
        for name in RECORDINGS:
            out = run / "assigned" / name.replace(" ", "-")
            run_tool(["tools/assign.py", str(run), str(place / name), "--out", str(out), "--timeline"], {})
            row[name] = _judge(out, events[name])
        write_text(kept, json.dumps(row) + "\n")
        found["runs"].append(row)
    return found


def _generate(folder: Path, seed: int, length_s: float) -> list[Event]:
    """A recording in a folder, made once, and its events."""
    path, told = folder / "recording.mp4", folder.with_suffix(".json")
    folder.mkdir(parents=True, exist_ok=True)
    if not told.exists():
        events = generate_long(path, seed=seed, length_s=length_s)
        write_text(told, json.dumps([vars(event) for event in events], indent=1) + "\n")
    return [Event(**event) for event in json.loads(told.read_text(encoding="utf-8"))]


def _judge(out: Path, events: Sequence[Event]) -> dict[str, float]:
    """NMI of the pieces, whose class is that at their middle; precision, recall and F1 of the borders."""
    ends_s, classes = np.array([event.end_s for event in events]), [event.class_name for event in events]
    with (out / "assignments.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    middles_s = np.array([(float(row["start_s"]) + float(row["end_s"])) / 2 for row in rows])
    _, true = np.unique(classes, return_inverse=True)
    at = np.minimum(np.searchsorted(ends_s, middles_s, side="right"), len(events) - 1)
    clusters = np.array([int(row["cluster"]) for row in rows])
    with (out / "timeline.csv").open(encoding="utf-8", newline="") as file:
        borders_s = [float(row["start_s"]) for row in csv.DictReader(file)][1:]
    precision, recall = score_borders(borders_s, ends_s[:-1].tolist(), TOLERANCE_S)
    return {
        "nmi": round(normalised_mutual_information(contingency_matrix(true[at], clusters)), 4),
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "f1": round(2 * precision * recall / max(precision + recall, 1e-9), 4),
    }


def score_borders(found_s: Iterable[float], true_s: Sequence[float], tolerance_s: float) -> tuple[float, float]:
    """Precision and recall of borders; each true one is found by at most one that is no farther than the tolerance."""
    left, found, hits = sorted(true_s), sorted(found_s), 0
    for border_s in found:
        near = [one for one in left if abs(one - border_s) <= tolerance_s]
        if near:
            left.remove(near[0])  # the earliest: the later ones are for later borders
            hits += 1
    return hits / max(len(found), 1), hits / max(len(true_s), 1)


def of_reading(hours: float) -> dict[str, float]:
    """One pass over the pieces of a file of many hours against decoding it once from start to end, in one process."""
    folder = PLACE / f"{hours:g}h"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "looped.mkv"
    if not path.exists():
        generate_long(PLACE / "once.mp4", seed=2, length_s=600)
        loop(PLACE / "once.mp4", path, round(hours * 6))
    words = [f"data.root={folder}", "data.demo=false", f"data.cache_dir={folder.parent / 'cache'}", "data.cut=every"]
    config = load_config(ROOT / "configs" / "demo.yaml", [*words, "data.cache_gb=0", "data.num_workers=0"])
    began = time.monotonic()
    manifest = scan(folder, folder.parent / "cache")
    rows = usable(cut_evenly(manifest, 10.0, 10.0, config.data.clip_s)[0])
    planned_s = time.monotonic() - began
    before_gb = _most_gb()
    began = time.monotonic()
    loader, _ = ClipLoaders(config, rows).labelling_loader(rows)
    num_clips = sum(len(batch.index) for batch in loader)
    read_s = time.monotonic() - began
    after_gb = _most_gb()
    began = time.monotonic()
    for _ in stream_frames(path, size=config.video.decode_size):
        pass
    decode_sound(path, sample_rate=config.audio.sample_rate)
    straight_s = time.monotonic() - began
    return {
        "hours": hours,
        "clips": num_clips,
        "planned_s": round(planned_s, 2),
        "read_s": round(read_s, 1),
        "straight_s": round(straight_s, 1),
        "more_gb": round(after_gb - before_gb, 2),
    }


def loop(source: Path, target: Path, times: int) -> None:
    """Write a recording several times in a row, as it is coded."""
    with av.open(str(source)) as container:
        length_s = math.ceil((container.duration or 0) / av.time_base)
    with av.open(str(target), "w") as out:
        streams: dict[int, Any] = {}
        for number in range(times):
            with av.open(str(source)) as container:
                for stream in container.streams if number == 0 else ():
                    streams[stream.index] = out.add_stream_from_template(stream)
                for packet in container.demux():
                    if packet.dts is None or packet.pts is None:
                        continue
                    offset = round(number * length_s / packet.time_base)
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    packet.stream = streams[packet.stream_index]
                    out.mux(packet)


def _most_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def of_planning() -> dict[str, float]:
    """A million pieces of a thousand files: seconds to plan them."""
    count = 1000
    columns = {
        "id": [f"day{number}.mkv" for number in range(count)],
        "path": [f"day{number}.mkv" for number in range(count)],
        "start_s": [0.0] * count,
        "duration_s": [10_000.0] * count,
        "audio_s": [10_000.0] * count,
        "audio_state": ["ok"] * count,
        "status": ["ok"] * count,
    }
    manifest = pa.Table.from_pydict(
        {field.name: pa.array(columns.get(field.name, [None] * count), field.type) for field in SCHEMA},
        schema=SCHEMA.with_metadata({"root": "/media"}),
    )
    began = time.monotonic()
    pieces, _ = cut_evenly(manifest, 10.0, 10.0, 1.0)
    return {"files": count, "pieces": len(pieces), "seconds": round(time.monotonic() - began, 2)}


def page(result: dict[str, Any]) -> str:
    """docs/results/long_recordings.md."""
    parts = ["# Long recordings\n\n", ABOUT]
    if labels := result.get("labels"):
        rows = [
            [name, str(run["seed"]), *(f"{run[name][kind]:.3f}" for kind in ("nmi", "f1", "precision", "recall"))]
            for name in RECORDINGS
            for run in labels["runs"]
        ]
        header = ["recording", "seed", "NMI of pieces", f"F1 of borders, {TOLERANCE_S:g} s", "precision", "recall"]
        minutes = " ".join(f"{run['seconds'] / 60:.1f}" for run in labels["runs"])
        parts.append(
            f"## Timelines\n\nTwo recordings of {labels['minutes']:g} minutes with {labels['events']['trained on']} "
            f"and {labels['events']['never seen']} events; pieces of 2.5 s, {' '.join(LEARN)}, {minutes} minutes of "
            f"training.\n\n{markdown_table(header, rows)}\n\n{SIZES}\n"
        )
    if reading := result.get("reading"):
        parts.append(
            f"## Reading\n\nA file of {reading['hours']:g} hours, {reading['clips']:,} pieces of 10 s: scanned and "
            f"planned in {reading['planned_s']:.1f} s; one pass over the pieces in one process takes "
            f"{reading['read_s']:.0f} s and {reading['more_gb']:.2f} GB of memory more than before, and decoding "
            f"picture and sound straight from start to end {reading['straight_s']:.0f} s: the pass takes "
            f"{reading['read_s'] / reading['straight_s']:.2f} times as long.\n\n"
        )
    if planning := result.get("planning"):
        parts.append(
            f"## Planning\n\n{planning['pieces']:,} pieces of {planning['files']:,} files: "
            f"{planning['seconds']:.1f} s.\n\n"
        )
    found = result["machine"]
    parts.append(f"Measured on {found['processor']}, {found['cores']} cores, without a GPU.\n")
    return "".join(parts)


SIZES = """The demo's recipe asks for clusters of equal size, and events take from 65 to 239 seconds of a recording. So
here sizes may float (`labelling.size_strength`); with equal ones (0) pieces of the longest events are given to clusters
of the shortest, and a timeline has borders where nothing happens.
"""
ABOUT = """What do long recordings cost, and how well is told what happens in them? They are generated: events of the
demo's eight classes follow each other, each 8 to 30 seconds long, in which everything but the class is drawn anew every
2 to 3 seconds. No label takes part.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ("labels", "reading", "planning")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--hours", type=float, default=6.0)
    args = parser.parse_args()
    is_trial = (args.minutes, args.hours) != (20.0, 6.0)
    store = (PLACE if is_trial else RESULTS) / "long_recordings.json"
    store.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"machine": machine()}
    if store.exists():
        result |= json.loads(store.read_text(encoding="utf-8"))
    for name, work in (
        ("labels", lambda: of_labels(args.minutes)),
        ("reading", lambda: of_reading(args.hours)),
        ("planning", of_planning),
    ):
        if name in args.parts:
            result[name] = work()
            write_text(store, json.dumps(result, indent=1) + "\n")
    show_page("long_recordings", page(result), is_trial)


if __name__ == "__main__":
    main()
