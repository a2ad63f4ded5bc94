"""Speed of the gallery's export beside that of the decoding it needs; going on after SIGKILL; size of its data.

python benchmarks/gallery.py                       300 recordings, and data for 180,000 clips that do not exist
python benchmarks/gallery.py --section data        one of rate, resume, data; the others' figures stay
python benchmarks/gallery.py --section resume --num-clips 180000 --num-clusters 300
                                                   an export of a full size, killed half way and gone on with: minutes
                                                   (recordings are hard links to 24 different ones)

Recordings are generated: 10 s of 320 x 240 at 25 frames/s with a key frame every 5 s, as videos from the web have
them, and sound at 44.1 kHz.  Thumbnails are made and the same frames and sound decoded in turn, in chunks, in one
process; rates are clips a second of processor time, so that other work on the machine counts less.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import common
import numpy as np
import pyarrow as pa

from selavi.media import encode_clip
from selavi.results.gallery.build import AboutRun, MediaSource, write_gallery
from selavi.results.gallery.select import Head, Places
from selavi.results.gallery.thumbnails import Geometry, ThumbnailJob, make_thumbnail, read_file

ROOT = Path(__file__).resolve().parents[1]
NUM_DIFFERENT, SECONDS, FPS, GOP, SAMPLE_RATE = 24, 10, 25, 125, 44_100
CHUNK = 25
PLACES = 24
"""Clips of a cluster with a thumbnail: the default of Places."""


def generate(folder: Path, num_clips: int) -> list[Path]:
    """Films of drifting noise and squares with chords; many names for few files."""
    paths = [folder / f"{number:06d}.mp4" for number in range(num_clips)]
    if folder.exists():
        return paths
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    time_s = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE
    originals = []
    for number in range(NUM_DIFFERENT):
        texture = np.kron(rng.integers(60, 200, (40, 60, 3)), np.ones((12, 12, 1))).astype(np.uint8)

        def frames(texture: np.ndarray = texture, number: int = number) -> Any:
            for index in range(SECONDS * FPS):
                picture = texture[index // 3 : index // 3 + 240, index // 2 : index // 2 + 320].copy()
                picture[80:160, (index * 3 + 20 * number) % 240 :][:, :80] = (30, 160, 240)
                yield picture

        sound = sum(np.sin(2 * np.pi * 110 * (number % 7 + 2) * k * time_s) / k for k in range(1, 5))
        path = folder / f"original-{number}.mp4"
        waveform = (0.2 * np.asarray(sound)).astype(np.float32)
        encode_clip(path, frames(), waveform, fps=FPS, sample_rate=SAMPLE_RATE, gop=GOP)
        originals.append(path)
    for number, path in enumerate(paths):
        path.hardlink_to(originals[number % NUM_DIFFERENT])
    return paths


def section_rate(folder: Path, num_clips: int, _: int) -> dict[str, Any]:
    """Thumbnails and bare decoding, in turn."""
    paths = generate(folder / "media", num_clips)
    geometry = Geometry(160)
    jobs = [
        ThumbnailJob(folder / "thumbs" / f"{number:06d}.jpg", path, number, 0.0, float(SECONDS), True, True)
        for number, path in enumerate(paths)
    ]
    make_thumbnail(ThumbnailJob(folder / "warm.jpg", *_rest(jobs[0])), geometry, read_file)  # imports librosa
    chunks: dict[str, list[tuple[float, float, int]]] = {"thumbnails": [], "decoding": []}
    for start in range(0, num_clips, CHUNK):
        chunk = jobs[start : start + CHUNK]
        for name, work in (
            ("decoding", lambda job: read_file(job, geometry)),
            ("thumbnails", lambda job: make_thumbnail(job, geometry, read_file)),
        ):
            cpu_s, wall_s = time.process_time(), time.perf_counter()
            for job in chunk:
                work(job)
            chunks[name].append((time.process_time() - cpu_s, time.perf_counter() - wall_s, len(chunk)))
    rates = {name: median(count / cpu_s for cpu_s, _, count in found) for name, found in chunks.items()}
    walls = {name: sum(wall for _, wall, _ in found) for name, found in chunks.items()}
    size = sum(path.stat().st_size for path in (folder / "thumbs").iterdir()) / num_clips
    return {"clips": num_clips, "rates": rates, "wall_s": walls, "bytes_a_thumbnail": round(size)}


def _rest(job: ThumbnailJob) -> tuple[Any, ...]:
    return job.source, job.row, job.start_s, job.duration_s, job.has_picture, job.has_sound


def export(folder: Path, num_clips: int, num_clusters: int) -> None:
    """What the process that is killed does, in worker processes; of a single cluster all clips are shown."""
    from selavi.commands.gallery_workers import pool

    names = [f"{number:06d}.mp4" for number in range(num_clips)]
    facts = {"width": 320, "height": 240, "duration_s": float(SECONDS), "audio_state": "ok"}
    stats = [(folder / "media" / name).stat() for name in names]
    clips = pa.table(
        {"id": names, "path": names, "start_s": np.zeros(num_clips), "label": pa.nulls(num_clips, pa.string())}
        | {name: [value] * num_clips for name, value in facts.items()}
        | {"bytes": [stat.st_size for stat in stats], "mtime_ns": [stat.st_mtime_ns for stat in stats]}
    )
    sure = np.linspace(1, 0.1, num_clips).astype(np.float32)
    heads = [Head(0, (np.arange(num_clips) % num_clusters).astype(np.int32), sure, sure, 1 - sure, sure)]
    about, source = AboutRun("benchmark", "runs/benchmark", "train", 0), MediaSource(folder / "media")
    places = None if num_clusters == 1 else Places()
    report = write_gallery(folder / "gallery", clips, heads, about, source, places=places, run_jobs=pool(0))
    print(f"made {report.made} kept {report.kept}")


def section_resume(folder: Path, num_clips: int, num_clusters: int) -> dict[str, Any]:
    """Kill an export when half of its thumbnails are there, and go on."""
    generate(folder / "media", num_clips)
    wanted = num_clips if num_clusters == 1 else num_clusters * PLACES
    command = [sys.executable, __file__, "--export", str(folder), "--num-clips", str(num_clips)]
    command += ["--num-clusters", str(num_clusters)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
    thumbs = folder / "gallery" / "thumbs"
    while process.poll() is None and sum(1 for _ in thumbs.rglob("[!.]*.jpg")) < wanted // 2:
        time.sleep(1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    killed_s, there = time.monotonic() - began, sum(1 for _ in thumbs.rglob("[!.]*.jpg"))
    began = time.monotonic()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    found = done.stdout.split()
    again_s = time.monotonic() - began
    return {
        "clips": num_clips,
        "clusters": num_clusters,
        "killed_after_s": round(killed_s, 1),
        "thumbnails_then": there,
        "second_s": round(again_s, 1),
        "made": int(found[1]),
        "kept": int(found[3]),
        "clips_per_s": round((int(found[1]) + int(found[3])) / (killed_s + again_s), 1),
    }


def section_data(
    folder: Path, num_clips: int = 180_000, num_clusters: int = 300, num_heads: int = 10
) -> dict[str, Any]:
    """Write everything but pictures for many clips that do not exist, in a process of its own."""
    out = folder / "synthetic"
    code = (
        "import time, resource, json, sys\n"
        "from pathlib import Path\n"
        "from tests.selavi.results.gallery.synthetic_gallery import write_synthetic_gallery\n"
        f"began = time.monotonic(); write_synthetic_gallery(Path({str(out)!r}), {num_clips}, {num_clusters}, "
        f"num_heads={num_heads})\n"
        "print(json.dumps([time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    seconds, peak_gb = json.loads(done.stdout)
    members = [path.stat().st_size for path in (out / "data").glob("h*/*.js")]
    return {
        "clips": num_clips,
        "clusters": num_clusters,
        "heads": num_heads,
        "seconds": round(seconds, 1),
        "peak_gb": round(peak_gb, 2),
        "index_mb": round((out / "data" / "index.js").stat().st_size / 1e6, 2),
        "page_mb": round((out / "index.html").stat().st_size / 1e6, 3),
        "map_mb": round((out / "data" / "map.js").stat().st_size / 1e6, 2),
        "ids_mb": round(sum(path.stat().st_size for path in (out / "data").glob("ids-*.js")) / 1e6, 1),
        "largest_members_mb": round(max(members) / 1e6, 2),
        "members_mb": round(sum(members) / 1e6, 1),
    }


def page(runs: Sequence[Mapping[str, Any]]) -> str:
    """The text of docs/results/gallery.md."""
    run = runs[0]
    rate, resume, data = run["rate"], run["resume"], run["data"]
    rates = rate["rates"]
    shown = 24 * data["clusters"]
    minutes = shown / rates["thumbnails"] / 60
    table = common.markdown_table(
        ["one core", "clips/s"],
        [
            ["decoding alone: four frames and the sound", f"{rates['decoding']:.1f}"],
            ["thumbnails: the same, drawn, written and flushed", f"{rates['thumbnails']:.1f}"],
        ],
    )
    sizes = common.markdown_table(
        ["file", "MB"],
        [
            ["index.html, with style and script", f"{data['page_mb']:.3f}"],
            ["data/index.js, read at once", f"{data['index_mb']:.2f}"],
            ["largest part of a cluster", f"{data['largest_members_mb']:.2f}"],
            ["data/map.js, 50,000 points", f"{data['map_mb']:.2f}"],
            ["all ids, for searching", f"{data['ids_mb']:.1f}"],
            ["all members of all clusters and heads", f"{data['members_mb']:.1f}"],
        ],
    )
    found = run["machine"]
    return f"""# Export of the gallery

Measured by `benchmarks/gallery.py` on {found["processor"]}, {found["cores"]} cores, {found["memory_gb"]:g} GB of
memory, which other work shared; rates count processor time. See [gallery.md](../gallery.md) for what is written.

## Thumbnails beside decoding

{rate["clips"]} generated recordings of 10 s, 320 x 240 pixels, with a key frame every 5 s, media linked.

{table}

The export reaches {rates["thumbnails"] / rates["decoding"]:.0%} of what decoding allows; a thumbnail has
{rate["bytes_a_thumbnail"] / 1000:.1f} kB. {data["clusters"]} clusters with 24 clips each are {shown:,} thumbnails, at
most, for a head: {minutes:.0f} minutes on one core. `--clips all` of 180,000 clips would take
{180_000 / rates["thumbnails"] / 3600:.1f} hours of one core.

## After SIGKILL

An export of {resume["clips"]:,} clips in {resume["clusters"]} cluster(s), in worker processes, was killed after
{resume["killed_after_s"]:g} s, with {resume["thumbnails_then"]:,} thumbnails on disk. The same command then kept
{resume["kept"]:,} and made {resume["made"]:,}, in {resume["second_s"]:g} s: {resume["clips_per_s"]:g} shown clips a
second of wall time over both, everything included.

## Data of 180,000 clips

{data["clips"]:,} clips, {data["clusters"]} clusters and {data["heads"]} heads, with features, without pictures:
figures, rows, neighbours, map and all files took {data["seconds"]:.0f} s and at most {data["peak_gb"]:.1f} GB of
memory, of which the libraries take a part.

{sizes}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-clips", type=int, default=300, help="recordings (default: 300)")
    parser.add_argument("--num-clusters", type=int, default=1, help="of the section resume (default: 1)")
    about = "only these; the figures of the others stay as they are in the results"
    parser.add_argument("--section", nargs="+", choices=("rate", "resume", "data"), help=about)
    parser.add_argument("--export", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.export:
        return export(args.export, args.num_clips, args.num_clusters)
    known = common.RESULTS / "gallery.json"
    run = dict(common.load_runs("gallery")[0]) if known.exists() else {}
    with tempfile.TemporaryDirectory() as name:
        for section in args.section or SECTIONS:
            found = SECTIONS[section](Path(name), args.num_clips, args.num_clusters)
            run |= {section: found, "machine": common.machine()}
            print(section, found, file=sys.stderr)
            if set(run) >= set(SECTIONS):
                common.publish("gallery", "Export of the gallery", [run], page([run]))
            else:
                known.write_text(json.dumps({"runs": [run]}), encoding="utf-8")


SECTIONS = {"rate": section_rate, "resume": section_resume, "data": lambda folder, *_: section_data(folder)}


if __name__ == "__main__":
    main()
