"""Scan and prepare 20,000 small files, killed by SIGKILL half way and started again, against an unbroken run.

python benchmarks/interrupted.py                      writes benchmarks/results/interrupted.json and the page
python benchmarks/interrupted.py --num-files 500      a trial; printed, not published

The files are generated, each with a picture and a sound of its own, into a folder below the system's temporary one;
every 100th is cut off, and every 70th is silent.  Equal means that every file of the outcome has the same bytes:
manifest.parquet and triage.md of tools/scan.py, everything that tools/prepare.py leaves.
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import numpy as np
from common import PAGES, RESULTS, ROOT, machine, markdown_table

FPS, FRAMES, HEIGHT, WIDTH, RATE = 8, 8, 36, 48, 8000
SHARD_MB = 8
NOT_COMPARED = {"prepare.lock"}


def make_files(folder: Path, count: int) -> None:
    """`count` videos of a second in ten classes."""
    for number in range(10):
        (folder / f"class_{number}").mkdir(parents=True, exist_ok=True)
    with get_context("spawn").Pool() as pool:
        pool.starmap(make_file, [(folder, number) for number in range(count)], chunksize=100)


def make_file(folder: Path, number: int) -> None:
    """One of them, if it is not there."""
    path = folder / f"class_{number % 10}" / f"{number:06d}.mp4"
    if path.exists():
        return
    temporary = path.with_suffix(".tmp")
    write_film(temporary, number)
    if number % 100 == 99:
        with temporary.open("r+b") as file:
            file.truncate(temporary.stat().st_size // 2)
    temporary.rename(path)


def write_film(path: Path, seed: int) -> None:
    """A square that moves over a coloured ground; a tone."""
    rng = np.random.default_rng(seed)
    ground, square = rng.integers(0, 256, (2, 3))
    frequency = 0.0 if seed % 70 == 69 else rng.uniform(100, 3000)
    with av.open(str(path), "w", format="mp4") as container:
        video = container.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        video.options, video.thread_count = {"preset": "ultrafast"}, 1
        audio = container.add_stream("aac", rate=RATE, layout="mono")
        for index in range(FRAMES):
            picture = np.full((HEIGHT, WIDTH, 3), ground, np.uint8)
            picture[10:22, 2 * index : 2 * index + 12] = square
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        tone = 0.3 * np.sin(2 * np.pi * frequency * np.arange(RATE * FRAMES // FPS) / RATE)
        block = av.AudioFrame.from_ndarray(tone[None].astype(np.float32), format="fltp", layout="mono")
        block.sample_rate, block.pts, block.time_base = RATE, 0, Fraction(1, RATE)
        container.mux([*audio.encode(block), *audio.encode(None)])


def run(command: Sequence[str], done: Callable[[], int] | None = None, until: int = 0) -> tuple[float, int]:
    """Run a tool to its end, or until `done()` has reached `until` and SIGKILL ends it and all of its processes.

    Returns:
        Seconds, and how much was done when it was killed.
    """
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=ROOT, stdout=told, stderr=told, start_new_session=True
        )
        while process.poll() is None:
            if done is not None and (count := done()) >= until:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                return time.monotonic() - began, count
            time.sleep(0.05)
        if process.returncode:
            told.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{told.read()[-2000:]}")
    if done is not None:
        raise SystemExit(f"{' '.join(command)} had ended before it was half done: take more files")
    return time.monotonic() - began, 0


def digests(folder: Path) -> dict[str, str]:
    """The bytes of every file in a folder."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in NOT_COMPARED]
    return {str(path.relative_to(folder)): hashlib.blake2b(path.read_bytes()).hexdigest() for path in files}


def compare(name: str, command: Callable[[Path], Sequence[str]], work: Path, half: int, **count: Any) -> dict[str, Any]:
    """Run one tool unbroken, and killed half way and started again."""
    unbroken, broken = work / f"{name}-unbroken", work / f"{name}-broken"
    for folder in (unbroken, broken):
        shutil.rmtree(folder, ignore_errors=True)
    unbroken_s, _ = run(command(unbroken))
    print(f"{name}: unbroken in {unbroken_s:.0f} s", file=sys.stderr, flush=True)
    killed_s, killed_at = run(command(broken), lambda: count["done"](broken), half)
    print(f"{name}: killed at {killed_at} after {killed_s:.0f} s", file=sys.stderr, flush=True)
    resumed_s, _ = run(command(broken))
    first, second = digests(unbroken / "out"), digests(broken / "out")
    return {
        "unbroken_s": unbroken_s,
        "killed_s": killed_s,
        "killed_at": killed_at,
        "resumed_s": resumed_s,
        "files_compared": len(first),
        "files_that_differ": sorted(
            name for name in first.keys() | second.keys() if first.get(name) != second.get(name)
        ),
    }


def scanned(folder: Path) -> int:
    """Files in the journal of a scan."""
    return sum(file.read_bytes().count(b"{") for file in (folder / "cache").glob("scan-*.jsonl"))


def prepared(folder: Path) -> int:
    """Clips in shards and in parts of shards to come."""
    import pyarrow.parquet as pq

    out = folder / "out"
    shards = sum(pq.read_metadata(path).num_rows for path in out.glob("shard-*.parquet"))
    return shards + sum(1 for _ in (out / "parts").glob("*.part"))


def measure(num_files: int, folder: Path) -> dict[str, Any]:
    """Both tools."""
    media = folder / f"media-{num_files}"
    make_files(media, num_files)

    def scan(place: Path) -> list[str]:
        (place / "out").mkdir(parents=True, exist_ok=True)
        cache = ["--cache-dir", str(place / "cache"), "--out", str(place / "out" / "manifest.parquet")]
        return ["tools/scan.py", str(media), *cache]

    def prepare(place: Path) -> list[str]:
        # Both find the same manifest in the cache, so that only preparing is compared.
        settings = ["--size", "32", "--sample-rate", str(RATE), "--shard-mb", str(SHARD_MB)]
        cache = ["--cache-dir", str(folder / "scan-unbroken" / "cache")]
        return ["tools/prepare.py", str(media), str(place / "out"), *settings, *cache]

    found = {
        "scan": compare("scan", scan, folder, num_files // 2, done=scanned),
        "prepare": compare("prepare", prepare, folder, num_files // 2, done=prepared),
    }
    shards = len(list((folder / "prepare-unbroken" / "out").glob("shard-*.tar")))
    return {"num_files": num_files, "num_shards": shards, "tools": found}


def page(result: dict[str, Any]) -> str:
    """docs/results/interrupted.md."""
    header = ["", "unbroken", "killed after", "files done by then", "then to the end", "files compared", "that differ"]
    rows = [
        [
            name,
            f"{found['unbroken_s']:.0f} s",
            f"{found['killed_s']:.0f} s",
            f"{found['killed_at']:,}",
            f"{found['resumed_s']:.0f} s",
            f"{found['files_compared']}",
            ", ".join(found["files_that_differ"]) or "none",
        ]
        for name, found in result["tools"].items()
    ]
    made = result["machine"]
    return f"""# Killed half way

Written by `python benchmarks/interrupted.py`. {result["num_files"]:,} generated clips of one second ({WIDTH} x {HEIGHT}
pixels, every 100th cut off, every 70th silent) went through `tools/scan.py` and `tools/prepare.py`
({result["num_shards"]} shards): once unbroken; once ended by SIGKILL, with all worker processes, about half way, and
started again with the same command. Every file of the two outcomes was compared byte by byte.

{markdown_table(header, rows)}

{made["processor"]}, {made["cores"]} cores, {result["date"]}. The seconds tell what is saved by going on, not how fast
the tools are: other work ran on the machine.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-files", type=int, default=20_000)
    parser.add_argument("--page", action="store_true", help="write docs/results/interrupted.md from the results")
    args = parser.parse_args()
    path = RESULTS / "interrupted.json"
    if not args.page:
        result = measure(args.num_files, Path(tempfile.gettempdir()) / "selavi-benchmark-interrupted")
        result |= {"machine": machine(), "date": time.strftime("%Y-%m-%d")}
        print(json.dumps(result, indent=2))
        if args.num_files < 20_000:
            return
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    (PAGES / "interrupted.md").write_text(page(json.loads(path.read_text(encoding="utf-8"))), encoding="utf-8")


if __name__ == "__main__":
    main()
