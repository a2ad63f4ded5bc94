"""What prepared clips cost in bytes, in time to read and in memory to make: the figures of docs/prepared.md.

python benchmarks/prepared.py --media FOLDER [--clips 50]

`--media` names any folder of videos; clips spread over it are re-encoded at 128 pixels.  The generated videos of
benchmarks/clips.py, full of texture and grain, stand for the other end.  Each way reads the same clips in turn, on one
core, round after round; medians are reported.  The memory is what a process takes to prepare a film, above its imports.
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
from collections.abc import Callable, Mapping, Sequence
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

from datamodules.index.scan import list_media, scan
from datamodules.stores.prepare import Job, PrepareSettings, encode_file, encode_part
from selavi.media import decode_clip, decode_jpegs, decode_recording, encode_clip, encode_jpeg

SIZE, RATE = 128, 24_000
QUALITIES = (75, 90, 95)
MINUTES = (1, 10)


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


# ---- JPEG frames ----


def with_torchvision(files: Sequence[bytes]) -> np.ndarray:
    """The decoder of torchvision (deprecated since 0.29), from libjpeg-turbo."""
    images = [torch.frombuffer(bytearray(file), dtype=torch.uint8) for file in files]
    return np.stack([decode_jpeg(image, ImageReadMode.RGB).permute(1, 2, 0).numpy() for image in images])


def with_pillow(files: Sequence[bytes]) -> np.ndarray:
    """Pillow's decoder, from libjpeg-turbo too."""
    return np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])


def jpeg_frames(paths: Sequence[Path], num_rounds: int) -> dict[str, Any]:
    """Size of JPEG frames, and how fast each decoder reads squares of 128 pixels."""
    warnings.simplefilter("ignore", FutureWarning)
    frames = [decode_recording(path, size=SIZE, sample_rate=RATE).frames for path in paths]
    frames = [film[:: max(1, len(film) // 10)][:10] for film in frames]
    num_frames = sum(map(len, frames))
    readers: dict[str, Callable[[Sequence[bytes]], Any]] = {
        "FFmpeg (used)": decode_jpegs,
        "torchvision": with_torchvision,
        "Pillow": with_pillow,
    }
    ways, bytes_per_pixel = {}, {}
    for quality in QUALITIES:
        packed = [[encode_jpeg(middle(frame), quality) for frame in film] for film in frames]
        bytes_per_pixel[str(quality)] = sum(len(file) for film in packed for file in film) / (num_frames * SIZE**2)
        for name, read in readers.items():
            ways[f"{quality} {name}"] = lambda read=read, packed=packed: [read(film) for film in packed]
    return {"bytes_per_pixel": bytes_per_pixel, "frames_per_s": clips_per_second(ways, num_frames, num_rounds)}


def middle(frame: np.ndarray) -> np.ndarray:
    """The square in the middle of a frame."""
    top, left = ((side - SIZE) // 2 for side in frame.shape[:2])
    return frame[top : top + SIZE, left : left + SIZE]


# ---- memory ----


def memory_mb(form: str, minutes: int, folder: Path) -> float:
    """Megabytes that a process takes on top of its imports to prepare a film of 30 frames a second."""
    film = folder / f"{minutes}.mp4"
    if not film.exists():
        repeat(clips.make_files()[0], film, 60 * minutes // clips.SECONDS)
    command = [sys.executable, __file__, "--prepare", form, str(film), str(folder / f"{form}-{minutes}")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout)


def repeat(path: Path, target: Path, times: int) -> None:
    """The packets of a film again and again."""
    with av.open(str(path)) as source, av.open(str(target), "w", format="mp4") as sink:
        streams = {stream.index: sink.add_stream_from_template(stream) for stream in source.streams}
        packets = [packet for packet in source.demux() if packet.dts is not None]
        latest = dict.fromkeys(streams, float("-inf"))
        for number in range(times):
            for packet in packets:
                copy = av.Packet(bytes(packet))
                shift = round(number * clips.SECONDS / packet.time_base)
                copy.pts, copy.dts, copy.duration = packet.pts + shift, packet.dts + shift, packet.duration
                if copy.dts <= latest[packet.stream_index]:  # blocks of sound reach over the end
                    continue
                latest[packet.stream_index] = copy.dts
                copy.time_base, copy.is_keyframe = packet.time_base, packet.is_keyframe
                copy.stream = streams[packet.stream_index]
                sink.mux(copy)


def prepare_alone(form: str, film: Path, target: Path) -> None:
    """Prepare one film and print the megabytes that it took."""
    manifest = scan(film.parent, target.with_name("cache"), 1)  # in a process of its own
    [facts] = [row for row in manifest.to_pylist() if row["path"] == film.name]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    encode = encode_part if form == "shards" else encode_file
    settings = PrepareSettings(form, SIZE, sample_rate=RATE)  # type: ignore[arg-type]
    encode(Job("000000000", facts, str(target)), root=str(film.parent), settings=settings)
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3)


# ---- the report ----


def numbers(results: Mapping[str, Any]) -> str:
    """The tables of docs/prepared.md."""
    figures, memory = results["figures"], results["memory_mb"]
    names = {"real": "real videos", "generated": "texture and grain"}
    rows = []
    for quality in QUALITIES:
        row = [f"JPEG of quality {quality}"]
        for name in names:
            found = figures[name]["jpeg"]
            per_s = found["frames_per_s"][f"{quality} FFmpeg (used)"]
            row += [f"{found['bytes_per_pixel'][str(quality)]:.2f}", f"{per_s:,.0f}"]
        rows.append(row)
    header = ["squares of 128 pixels"]
    header += [f"{shown}: {what}" for shown in names.values() for what in ("bytes a pixel", "frames/s")]
    made, worth = results["machine"], []
    for name in names:
        speed = figures[name]["jpeg"]["frames_per_s"]
        ours = speed["90 FFmpeg (used)"]
        worth.append(" and ".join(f"{ours / speed[f'90 {way}']:.2f}" for way in ("torchvision", "Pillow")))
    kilobytes, more, gain = [], [], []
    for name in names:
        small = figures[name]["small files"]
        size, speed = small["kilobytes_per_s"], small["clips_per_s"]
        kilobytes.append(f"{size['fast_decode']:.0f}")
        more.append(f"{100 * (size['fast_decode'] / size['plain'] - 1):.0f}")
        gain.append(f"{speed['fast_decode'] / speed['plain']:.2f}")
    short, long = ([f"{memory[form][str(minutes)]:.0f}" for form in ("shards", "files")] for minutes in MINUTES)
    parts = [
        f"Measured by `benchmarks/prepared.py` on one core ({made['processor']}), {results['date']}, at a load of "
        f"{made['load']:.1f} on {made['cores']} cores, on "
        f"{figures['real']['small files']['clips']} real clips (112 pixels, enlarged, so smoother than most) and on "
        "generated videos full of texture and grain.",
        markdown_table(header, rows),
        f"FFmpeg's JPEG decoder reads {worth[0]} times the frames of torchvision's and Pillow's on real videos "
        f"({worth[1]} on the others), at quality 90. Small files take {kilobytes[0]} ({kilobytes[1]}) kB a second; "
        f"x264's tuning for fast decoding makes them {more[0]} ({more[1]}) % larger and {gain[0]} ({gain[1]}) times as "
        "fast to read.",
        f"A film of {MINUTES[0]} minute takes {short[0]} MB of a worker's memory for shards and {short[1]} MB for "
        f"files, one of {MINUTES[1]} minutes {long[0]} and {long[1]} MB: its sound is held and, for shards, its JPEG "
        "frames, but never its pictures.",
    ]
    return "\n\n".join(parts)


def main() -> None:
    """Measure, write the results, put them into docs/prepared.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=Path, help="folder of videos")
    parser.add_argument("--clips", type=int, default=50, help="how many of them (default: 50)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--prepare", nargs=3, metavar=("FORM", "FILM", "TARGET"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.prepare:
        form, film, target = args.prepare
        prepare_alone(form, Path(film), Path(target))
        return
    if args.media is None:
        parser.error("--media is needed")
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    figures, memory = {}, {}
    with tempfile.TemporaryDirectory(prefix="selavi-prepared-") as name:
        folder = Path(name)
        for form in ("shards", "files"):
            memory[form] = {str(minutes): memory_mb(form, minutes, folder) for minutes in MINUTES}
        for name, paths in (("real", spread_out(args.media, args.clips)), ("generated", clips.make_files())):
            (folder / name).mkdir()
            figures[name] = {
                "small files": small_files(paths, folder / name, args.rounds),
                "jpeg": jpeg_frames(paths, args.rounds),
            }
    results = {
        "command": f"python benchmarks/prepared.py --media FOLDER --clips {args.clips} --rounds {args.rounds}",
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine() | {"load": os.getloadavg()[0], "av": av.__version__},
        "figures": figures,
        "memory_mb": memory,
    }
    (RESULTS / "prepared.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    page = ROOT / "docs" / "prepared.md"
    page.write_text(fill(page.read_text(encoding="utf-8"), "prepared", numbers(results)), encoding="utf-8")
    print("wrote benchmarks/results/prepared.json and the numbers of docs/prepared.md", file=sys.stderr)


if __name__ == "__main__":
    main()
