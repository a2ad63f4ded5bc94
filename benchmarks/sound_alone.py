"""Sound alone: the sound tracks of AV-objects without their films, and a folder in which much is missing.

    python benchmarks/sound_alone.py                          all rows, three seeds; results, page
    python benchmarks/sound_alone.py --rows wav --seeds 0     a part of it; what is done is kept

The set is not distributed; see benchmarks/small_sets.py.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import pyarrow.compute as pc
import soundfile
from common import RESULTS, ROOT, Job, machine, markdown_table, run_job, show_page, spread
from labels import plan
from small_sets import SETS, find_sets

from selavi.atomic import write_text
from selavi.media import decode_sound
from selavi.results.labels import read_labels
from selavi.runs.manifest import read_manifest
from selavi.scores.contingency import contingency_matrix
from selavi.scores.metrics import normalised_mutual_information

PLACE = ROOT / "runs" / "benchmarks" / "sound_alone"
STORE = RESULTS / "sound_alone.json"
RATE = 16_000
ROWS = {
    "films": "the films, `modalities=[audio]`",
    "tracks": "their sound tracks as they are, in files of the same names without a picture",
    "wav": "their sound tracks as .wav",
    "mixed": "a third films, a third .wav, a third films without sound, `modalities=[video,audio]`",
}


def only(kind: Literal["audio", "video"]) -> Callable[[Path, Path], None]:
    """How the sound or the picture of a film is copied, packet by packet, into a file of the same kind."""

    def copy(source: Path, target: Path) -> None:
        with av.open(str(source)) as film, av.open(str(target), "w", format="mp4") as out:
            [chosen] = film.streams.get({kind: 0})
            stream = out.add_stream_from_template(chosen)
            for packet in film.demux(chosen):
                if packet.dts is not None:
                    packet.stream = stream
                    out.mux(packet)

    return copy


def wav(source: Path, target: Path) -> None:
    """Decode the sound of a film into 16 bit."""
    soundfile.write(target.with_suffix(".wav"), decode_sound(source, sample_rate=RATE), RATE)


def make(row: str, root: Path) -> Path:
    """The folder of a row's files, made where it is not there yet."""
    folder, begun = PLACE / row, PLACE / f"{row}.begun"
    if folder.exists():
        return folder
    shutil.rmtree(begun, ignore_errors=True)
    ways: dict[str, tuple[Callable[[Path, Path], Any], ...]] = {
        "tracks": (only("audio"),),
        "wav": (wav,),
        "mixed": (shutil.copy, wav, only("video")),
    }
    for number, film in enumerate(sorted(root.rglob("*.mp4"))):
        target = begun / film.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        ways[row][number % len(ways[row])](film, target)
    begun.rename(folder)
    return folder


def learn(row: str, seed: int, root: Path) -> dict[str, Any]:
    """Train and measure one row; films are a row of benchmarks/labels.py."""
    name = "default" if row == "mixed" else "sela-audio"
    [planned] = plan(["av_objects"], [name], [seed], fast=False)
    job, folders = planned.job, {SETS["av_objects"].variable: root}
    if row != "films":
        job = Job("sound_alone", f"{row}-seed{seed}", row, seed, job.config, job.overrides, job.splits)
        folders = {SETS["av_objects"].variable: make(row, root)}
    done = run_job(job, folders)
    result = {"run": str(job.run_dir()), "test": done["splits"]["test"]["chosen"], "commands": done["commands"]}
    if row == "mixed":
        result["kinds"] = by_kind(ROOT / job.run_dir())
    return result


def clusters_of(run_dir: Path, split: str) -> dict[str, int]:
    """Cluster of each clip under the chosen head, by its name without the suffix."""
    chosen = json.loads((run_dir / "eval" / f"metrics_{split}.json").read_text(encoding="utf-8"))["chosen"]
    clusters = read_labels(run_dir, split).cluster_of(int(chosen["head"]))
    return {str(Path(clip_id).with_suffix("")): cluster for clip_id, cluster in clusters.items()}


def agreement(one: dict[str, int], other: dict[str, Any]) -> float:
    """NMI of two partitions of the clips that both have."""
    names = sorted(one.keys() & other.keys())
    return float(normalised_mutual_information(contingency_matrix([one[n] for n in names], [other[n] for n in names])))


def by_kind(run_dir: Path) -> dict[str, float]:
    """NMI with the class of the test clips, by what they have."""
    clusters = clusters_of(run_dir, "test")
    manifest = read_manifest(run_dir / "manifest.parquet")
    names = [str(Path(path).with_suffix("")) for path in manifest["path"].to_pylist()]
    classes = dict(zip(names, manifest["label"].to_pylist(), strict=True))
    has_picture = pc.greater(pc.fill_null(manifest["width"], 0), 0).to_pylist()
    has_sound = pc.equal(manifest["audio_state"], "ok").to_pylist()
    words = {(True, True): "both", (False, True): "sound alone", (True, False): "picture alone"}
    kinds = {
        name: words[bool(seen), bool(heard)] for name, seen, heard in zip(names, has_picture, has_sound, strict=True)
    }
    result = {}
    for kind in words.values():
        some = {name: cluster for name, cluster in clusters.items() if kinds[name] == kind}
        result[kind] = agreement(some, classes)
    return result


def page(result: dict[str, Any]) -> str:
    """The page of docs/results."""
    rows = []
    for row, words in ROWS.items():
        done = [result["rows"][key] for key in sorted(result["rows"]) if key.startswith(f"{row} ")]
        if done:
            same = [one["same"] for one in done if "same" in one]
            rows.append([words, spread([one["test"]["nmi"] for one in done]), spread(same) if same else ""])
    lines = [
        "# Sound alone\n",
        "AV-objects, heard alone; what the set is made of is told in [small_sets.md](small_sets.md), and it is not",
        "distributed. NMI of the unseen test clips with the class, each seed and the mean; and with the clusters that",
        "the films gave with the same seed. The ids of .wav files are others, so that every random choice is, too.\n",
        markdown_table(["row", "NMI with the class", "NMI with the films' clusters"], rows),
        "",
    ]
    if (between := result.get("between_seeds")) is not None:
        lines.append(f"Clusters of the films under two seeds have an NMI of {between:.3f} with each other.\n")
    mixed = [result["rows"][key]["kinds"] for key in sorted(result["rows"]) if key.startswith("mixed ")]
    for kind in mixed[0] if mixed else ():
        values = spread([one[kind] for one in mixed])
        lines.append(f"- Of the mixed folder, clips with {kind}: {values}.")
    lines.append(f"\nMeasured on {result['machine']['processor']}, {result['machine']['cores']} cores, without a GPU.")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Make the rows that are missing, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", choices=tuple(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    folders = find_sets(["av_objects"])
    if not folders:
        sys.exit("nothing to measure")
    root = folders[SETS["av_objects"].variable]
    empty: dict[str, Any] = {"title": "Sound alone", "rows": {}}
    result = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else empty
    result["machine"] = machine()
    for seed in args.seeds:
        for row in args.rows:
            key = f"{row} {seed}"
            if key not in result["rows"]:
                result["rows"][key] = learn(row, seed, root)
            films = result["rows"].get(f"films {seed}")
            if row in ("tracks", "wav") and films:
                runs = [ROOT / result["rows"][name]["run"] for name in (key, f"films {seed}")]
                if all(run.exists() for run in runs):
                    result["rows"][key]["same"] = agreement(*(clusters_of(run, "test") for run in runs))
            write_text(STORE, json.dumps(result, indent=1) + "\n")
    runs = [ROOT / result["rows"][key]["run"] for key in sorted(result["rows"]) if key.startswith("films ")]
    if len(runs) > 1 and all(run.exists() for run in runs):
        every = [clusters_of(run, "test") for run in runs]
        result["between_seeds"] = float(np.mean([agreement(*pair) for pair in combinations(every, 2)]))
        write_text(STORE, json.dumps(result, indent=1) + "\n")
    show_page("sound_alone", page(result), is_trial=False)


if __name__ == "__main__":
    main()
