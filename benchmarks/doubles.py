"""Doubles: how many of them are found, and how many of those found are none.

    python benchmarks/doubles.py                     AV-objects; results, page
    python benchmarks/doubles.py --clips 20          a trial; printed, not published

A copy of each test clip goes to another split: the same bytes; encoded anew with a third of the bits; smaller, with
less of the sound's bandwidth; a third of a second cut off at the start and a quarter at the end.  And the sound alone
as Ogg: at half the sample rate, and without its beginning.  The set is not distributed; see benchmarks/small_sets.py.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from common import RESULTS, machine, markdown_table, show_page
from small_sets import SETS, find_sets

from datamodules.index.doubles import find_doubles
from datamodules.index.manifest import judge
from datamodules.index.scan import scan
from selavi.atomic import write_text
from selavi.media import decode_sound, encode_clip, stream_frames

FPS, RATE = 12, 16_000
START, END = 4, 3
"""Frames that a shortened copy lacks."""


def encoded(
    *, size: int = 112, crf: int = 28, bits: int = 32_000, first: int = 0, last: int = 0
) -> Callable[[Path, Path], None]:
    """How a film is copied: decoded and encoded anew."""

    def copy(source: Path, target: Path) -> None:
        frames = np.stack([frame for _, frame in stream_frames(source, size=size)])
        sound = decode_sound(source, sample_rate=RATE)
        frames, sound = frames[first : len(frames) - last], sound[first * RATE // FPS :]
        sound = sound[: len(sound) - last * RATE // FPS]
        encode_clip(target, frames, sound, fps=FPS, sample_rate=RATE, crf=crf, audio_bitrate=bits)

    return copy


def heard(rate: int, skip_s: float) -> Callable[[Path, Path], None]:
    """How the sound of a film is copied alone."""

    def copy(source: Path, target: Path) -> None:
        sound = decode_sound(source, sample_rate=rate)
        soundfile.write(target, sound[round(skip_s * rate) :], rate, format="OGG", subtype="VORBIS")

    return copy


FILMS: dict[str, tuple[str, Callable[[Path, Path], Any]]] = {
    "bytes": ("the same bytes", shutil.copy),
    "encoded": ("encoded anew, CRF 33 and 24 kbit/s", encoded(crf=33, bits=24_000)),
    "smaller": ("84 pixels instead of 112, CRF 30", encoded(size=84, crf=30)),
    "shortened": ("0.33 s off the start, 0.25 s off the end", encoded(first=START, last=END)),
}
SOUNDS: dict[str, tuple[str, Callable[[Path, Path], Any]]] = {
    "8 kHz": ("sound alone, at half the sample rate", heard(8000, 0.0)),
    "later": ("sound alone, 0.3 s off the start", heard(RATE, 0.3)),
}


def measure(clips: list[Path], ways: dict[str, tuple[str, Callable[[Path, Path], Any]]], suffix: str) -> dict[str, Any]:
    """Copy clips in some ways, look for doubles, and compare with what was copied."""
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder) / "set", Path(folder) / "cache"
        (root / "train").mkdir(parents=True)
        for number, clip in enumerate(clips):
            original = root / "train" / f"{number:04}{suffix}"
            if suffix == ".mp4":
                shutil.copy(clip, original)
            else:
                heard(RATE, 0.0)(clip, original)
            for name, (_, copy) in ways.items():
                (root / "test" / name).mkdir(parents=True, exist_ok=True)
                copy(clip, root / "test" / name / original.name)
        kinds = ("video", "audio") if suffix == ".mp4" else ("audio",)
        manifest = judge(scan(root, cache), clip_s=1.0, audio_policy="mask", modalities=kinds)
        began = time.monotonic()
        doubles = find_doubles(manifest, cache, near=True)
        seconds = time.monotonic() - began
    paths = [Path(path) for path in manifest["path"].to_pylist()]
    group = dict(zip(paths, doubles.group.tolist(), strict=True))
    recall = {}
    for name in ways:
        pairs = [(path, Path("train") / path.name) for path in paths if path.parent.name == name]
        recall[name] = float(np.mean([group[copy] == group[original] >= 0 for copy, original in pairs]))
    together = [{path.name for path in paths if group[path] == number} for number in sorted(set(group.values()) - {-1})]
    mixed = [sorted(clips[int(Path(name).stem)].parent.name for name in names) for names in together if len(names) > 1]
    return {
        "files": len(paths),
        "recall": recall,
        "groups": len(together),
        "groups_of_several_clips": len(mixed),
        "their_classes": mixed,
        "seconds": round(seconds, 1),
    }


def page(result: dict[str, Any]) -> str:
    """The page of docs/results."""
    lines = [
        "# Doubles\n",
        "Copies of the test clips of AV-objects lie in another split; `selavi scan --near-doubles` looks for them.\n"
        "What the set is made of is told in [small_sets.md](small_sets.md); it is not distributed.\n",
    ]
    for key, title, ways in (("films", "Films", FILMS), ("sounds", "Sound alone", SOUNDS)):
        part = result[key]
        rows = [[words, f"{part['recall'][name]:.3f}"] for name, (words, _) in ways.items()]
        num_good = part["groups"] - part["groups_of_several_clips"]
        lines += [
            f"## {title}\n",
            markdown_table(["copy", "found"], rows),
            "",
            f"{part['files']:,} files in {part['seconds']:.0f} s. Of {part['groups']:,} groups {num_good:,} hold "
            f"copies of one clip alone: a precision of {num_good / max(part['groups'], 1):.3f}."
            + describe(part["their_classes"]),
            "",
        ]
    lines.append(f"Measured on {result['machine']['processor']}, {result['machine']['cores']} cores, without a GPU.")
    return "\n".join(lines) + "\n"


def describe(mixed: list[list[str]]) -> str:
    """Which classes the groups of several clips are of."""
    if not mixed:
        return ""
    same = sum(len(set(classes)) == 1 for classes in mixed)
    return (
        f"\nOf the {len(mixed)} others {same} hold clips of one class, whose sounds come from few recordings and may "
        "be the same."
    )


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=0, help="0: all test clips")
    args = parser.parse_args()
    folders = find_sets(["av_objects"])
    if not folders:
        sys.exit("nothing to measure")
    root = folders[SETS["av_objects"].variable]
    clips = sorted((root / "test").rglob("*.mp4"))
    clips = clips[:: max(1, len(clips) // args.clips)] if args.clips else clips
    result = {
        "title": "Doubles",
        "machine": machine(),
        "films": measure(clips, FILMS, ".mp4"),
        "sounds": measure(clips, SOUNDS, ".ogg"),
    }
    if not args.clips:
        write_text(RESULTS / "doubles.json", json.dumps(result, indent=1) + "\n")
    show_page("doubles", page(result), bool(args.clips))


if __name__ == "__main__":
    main()
