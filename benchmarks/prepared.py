"""What prepared clips cost in bytes, in time to read and in memory to make: the figures of docs/prepared.md.

python benchmarks/prepared.py --media FOLDER [--clips 50]

`--media` names any folder of videos; clips spread over it are re-encoded at 128 pixels.  Frames of the generated films of
benchmarks/clips.py, full of texture and grain, stand for the other end.  Each way reads the same clips in turn, on one
core, round after round; medians are reported.  The memory is that of a process which prepares ten minutes.
"""

import argparse
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import av
import clips
import numpy as np
import torch
from common import RESULTS, ROOT, fill, machine, markdown_table
from PIL import Image
from torchvision.io import ImageReadMode, decode_jpeg

from datamodules.scan import list_media
from datamodules.shards import encode_jpegs
from selavi.media import decode_clip, decode_recording, encode_clip

SIZE, RATE = 128, 24_000
QUALITIES = (75, 90, 95)
MINUTES = 10


def spread_out(folder: Path, count: int) -> list[Path]:
    """So many media files of a folder, evenly spaced in the order of their names."""
    names = list_media(folder)["path"].to_pylist()
    return [folder / names[at] for at in np.linspace(0, len(names) - 1, min(count, len(names))).astype(int)]


def clips_per_second(ways: dict[str, Callable[[], Any]], count: int, num_rounds: int) -> dict[str, float]:
    """Of each way, that works through `count` clips or frames: medians over interleaved rounds."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(num_rounds + 1):  # the first one warms up
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if number:
                times[name].append(time.perf_counter() - began)
    return {name: count / median(values) for name, values in times.items()}


# ---- small files ----


def small_files(paths: Sequence[Path], folder: Path, num_rounds: int) -> dict[str, Any]:
    """Size and speed of small files, with and without what x264's tuning for fast decoding leaves out."""
    kinds = {"plain": False, "fast_decode": True}
    written: dict[str, list[Path]] = {name: [] for name in kinds}
    windows, seconds = [], 0.0
    for number, path in enumerate(paths):
        recording = decode_recording(path, size=SIZE, sample_rate=RATE)
        length_s = float(recording.times_s[-1])
        fps = (len(recording.times_s) - 1) / length_s
        frames = recording.frames[:, :, : recording.frames.shape[2] // 2 * 2]
        waveform = recording.waveform if recording.waveform.size else None
        for name, fast in kinds.items():
            written[name].append(folder / f"{name}-{number}.mp4")
            encode_clip(written[name][-1], frames, waveform, fps=fps, sample_rate=RATE, gop=8, fast_decode=fast)
        windows.append((np.random.default_rng(number).uniform(0, max(0.0, length_s - 1)), max(1, round(fps))))
        seconds += length_s

    def read(files: Sequence[Path]) -> None:
        for path, (start_s, num_frames) in zip(files, windows, strict=True):
            decode_clip(path, start_s, 1.0, num_frames=num_frames, size=SIZE, offset=0.5, sample_rate=RATE)

    ways = {name: lambda files=files: read(files) for name, files in written.items()}
    return {
        "clips": len(paths),
        "kilobytes_per_s": {n: sum(map(clips.bytes_of, files)) / seconds / 1e3 for n, files in written.items()},
        "clips_per_s": clips_per_second(ways, len(paths), num_rounds),
    }


# ---- the report ----


def main() -> None:
    """Measure, write the results, put them into docs/prepared.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=Path, required=True, help="folder of videos")
    parser.add_argument("--clips", type=int, default=50, help="how many of them (default: 50)")
    parser.add_argument("--rounds", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    real, generated = spread_out(args.media, args.clips), clips.make_files()
    figures = {}
    with tempfile.TemporaryDirectory(prefix="selavi-prepared-") as folder:
        for name, paths in (("real", real), ("generated", generated)):
            (Path(folder) / name).mkdir()
            figures[name] = {"small files": small_files(paths, Path(folder) / name, args.rounds)}
            print(json.dumps({name: figures[name]}, indent=1), file=sys.stderr)


if __name__ == "__main__":
    main()
