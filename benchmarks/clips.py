"""Speed from files to tensors on one core: clips a second, of one second each, at the same output.

python benchmarks/clips.py                      every section, each in a process of its own
python benchmarks/clips.py --section video      one of them; its figures replace the earlier ones in the results

The files are generated once into a folder below the system's temporary one: 10 s of moving texture with sound, 340 x
256, 30 frames a second, H.264 with key frames every 250 frames, 44.1 kHz stereo AAC.  Every way reads the same windows
in turn, round after round, and medians over the rounds are reported.

`official` stands for the usual way, written for this comparison: seek, every frame of the window to RGB at full
resolution, resizing in floating point, the sound through a process of the ffmpeg command, log filter banks in numpy.
The ffmpeg command comes from the system or from `pip install imageio-ffmpeg`; without one the sound is read inside this
process, which is faster, and the results say so.  torchcodec and decord2 are optional; torchcodec also wants the shared
libraries of FFmpeg on LD_LIBRARY_PATH.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from importlib.util import find_spec
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import av
import numpy as np
import pyarrow as pa
import torch
from av.video.reformatter import Interpolation
from common import PAGES, RESULTS, machine, markdown_table
from torch.nn.functional import interpolate

from datamodules.clips import ClipDataModule, judge_for, prepare_data
from datamodules.index.manifest import write_manifest
from datamodules.index.scan import scan
from datamodules.loading.loader import Loader
from datamodules.stores.prepare import PrepareSettings, prepare
from datamodules.stores.shards import open_shards
from selavi import modalities
from selavi.augment.audio import LogMel
from selavi.config import AudioConfig, load_config
from selavi.media import decode_clip, frame_times
from selavi.runs.manifest import SCHEMA, read_manifest

FOLDER = Path(tempfile.gettempdir()) / "selavi-benchmark-clips"
NUM_FILES, SECONDS, FPS, HEIGHT, WIDTH = 6, 10, 30, 256, 340
SIZE, STORED_SIZE, CLIP_S, RATE = 112, 128, 1.0, 24_000
Window = tuple[Path, float]
Decode = Callable[[Path, float, int], Any]
Way = Callable[[Window], Any]


# ---- files ----


def make_files() -> list[Path]:
    """The original files."""
    media = FOLDER / "media" / "train"
    media.mkdir(parents=True, exist_ok=True)
    paths = [media / f"{number}.mp4" for number in range(NUM_FILES)]
    for number, path in enumerate(paths):
        if not path.exists():
            temporary = path.with_suffix(".tmp")
            write_original(temporary, number)
            temporary.rename(path)
    return paths


def write_original(path: Path, seed: int) -> None:
    """One film: a textured ground that pans, a patch of another texture that crosses it, grain; noise for sound."""
    rng = np.random.default_rng(seed)
    texture = sum(
        np.kron(rng.normal(0, strength, (1200 // cell, 1600 // cell, 3)), np.ones((cell, cell, 1)))
        for cell, strength in ((80, 40), (20, 18), (4, 8))
    )
    texture = np.clip(128 + texture, 0, 255)
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        video = container.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt, video.gop_size = WIDTH, HEIGHT, "yuv420p", 250
        video.options, video.thread_count = {"preset": "medium", "crf": "25"}, 1
        audio = container.add_stream("aac", rate=44_100, layout="stereo")
        audio.bit_rate = 128_000
        for index in range(SECONDS * FPS):
            x, y = int(300 + 200 * np.sin(index / 60 + seed)), int(300 + 150 * np.cos(index / 50))
            picture = texture[y : y + HEIGHT, x : x + WIDTH].copy()
            left = (3 * index) % (WIDTH - 90)
            picture[80:180, left : left + 90] = texture[1000:1100, 100 + index % 40 : 190 + index % 40]
            picture = np.clip(picture + rng.normal(0, 2, picture.shape), 0, 255).astype(np.uint8)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        sound = np.cumsum(rng.normal(0, 1, (2, SECONDS * 44_100)), 1)
        sound = np.diff(sound, prepend=0, axis=1) * 0.05 + 0.2 * np.sin(np.arange(sound.shape[1]) / 30)
        block = av.AudioFrame.from_ndarray(sound.astype(np.float32), format="fltp", layout="stereo")
        block.sample_rate, block.pts, block.time_base = 44_100, 0, Fraction(1, 44_100)
        container.mux([*audio.encode(block), *audio.encode(None)])


def make_prepared(paths: Sequence[Path], name: str, size: int, aspect: float = 0) -> Path:
    """The originals as shards or as small files, by tools/prepare.py's function."""
    out = FOLDER / f"{name}-{size}-{aspect:g}"
    if not (out / "done").exists():
        shutil.rmtree(out, ignore_errors=True)
        manifest = scan(paths[0].parents[1], FOLDER / "cache", workers=1)
        prepare(manifest, out, PrepareSettings(format=name, size=size, aspect=aspect, sample_rate=RATE), workers=1)  # type: ignore[arg-type]
        (out / "done").touch()
    return out


def windows(paths: Sequence[Path], count: int) -> list[Window]:
    """The windows that every way reads."""
    rng = np.random.default_rng(0)
    return [(paths[i % len(paths)], float(rng.uniform(0, SECONDS - CLIP_S))) for i in range(count)]


def bytes_of(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


# ---- the usual way ----


def official_video(path: Path, start_s: float, num_frames: int) -> torch.Tensor:
    """Every frame of the window at full resolution, then float resizing."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        container.seek(int(start_s / stream.time_base), stream=stream)
        pictures = []
        for frame in container.decode(stream):
            if frame.time >= start_s + CLIP_S:
                break
            if frame.time >= start_s - 0.5 / FPS:
                pictures.append(frame.to_ndarray(format="rgb24"))
    chosen = np.linspace(0, len(pictures) - 1, num_frames).round().astype(int)
    clip = torch.from_numpy(np.stack([pictures[i] for i in chosen])).permute(0, 3, 1, 2).float()
    width = round(WIDTH * SIZE / HEIGHT)
    clip = interpolate(clip / 255, (SIZE, width), mode="bilinear", align_corners=False)
    left = (width - SIZE) // 2
    return clip[..., left : left + SIZE]


def find_ffmpeg() -> str | None:
    """The ffmpeg command."""
    if find_spec("imageio_ffmpeg"):
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    return shutil.which("ffmpeg")


def official_sound(path: Path, start_s: float, ffmpeg: str | None) -> np.ndarray:
    """A process for each clip."""
    if ffmpeg is None:
        sound = decode_clip(path, start_s, CLIP_S, num_frames=0, size=SIZE, offset=0.5, sample_rate=RATE)[1]
        assert sound is not None
        return sound.astype(np.float64) / 32768
    command = [ffmpeg, "-v", "error", "-threads", "1", "-ss", f"{start_s:.3f}", "-t", f"{CLIP_S}", "-i", str(path)]
    command += ["-vn", "-ac", "1", "-ar", str(RATE), "-f", "s16le", "-"]
    done = subprocess.run(command, capture_output=True, check=True)
    return np.frombuffer(done.stdout, "<i2") / 32768


def official_logmel(waveform: np.ndarray) -> np.ndarray:
    """Logarithm of mel filter banks, frame by frame in float64: pre-emphasis, 20 ms windows every 10 ms."""
    config = AudioConfig()
    emphasised = np.append(waveform[0], waveform[1:] - 0.97 * waveform[:-1])
    length, hop = round(config.window_s * RATE), round(config.hop_s * RATE)
    starts = np.arange(0, len(emphasised) - length + 1, hop)
    frames = emphasised[starts[:, None] + np.arange(length)]
    power = np.abs(np.fft.rfft(frames, config.num_fft)) ** 2 / config.num_fft
    return np.log(power @ _filters(config.num_mels, config.num_fft).T + 1e-10)


_FILTERS: dict[tuple[int, int], np.ndarray] = {}


def _filters(count: int, num_fft: int) -> np.ndarray:
    """Triangles, evenly spaced in mel; made once, as a loader would keep them."""
    if (count, num_fft) not in _FILTERS:
        mel = np.linspace(0, 2595 * np.log10(1 + RATE / 2 / 700), count + 2)
        edges = 700 * (10 ** (mel / 2595) - 1)
        at = np.arange(num_fft // 2 + 1) * RATE / num_fft
        rise = (at - edges[:-2, None]) / np.diff(edges)[:-1, None]
        fall = (edges[2:, None] - at) / np.diff(edges)[1:, None]
        _FILTERS[count, num_fft] = np.clip(np.minimum(rise, fall), 0, None)
    return _FILTERS[count, num_fft]


# ---- the others ----


def libav(path: Path, start_s: float, num_frames: int, *, skip: bool = True) -> int:
    """Decode the frames of the window with the same skipping, and throw them away."""
    last_s = frame_times(start_s, CLIP_S, num_frames)[-1]
    count = 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        context, base = stream.codec_context, float(stream.time_base)
        context.thread_count = 1
        container.seek(int(start_s / stream.time_base), stream=stream)
        for packet in container.demux(stream):
            if packet.pts is None or (packet.dts or 0) * base > last_s:
                break
            context.skip_frame = "NONREF" if skip and packet.pts * base <= start_s - 1 / FPS else "DEFAULT"
            count += sum(frame.time > start_s - 1 / FPS for frame in context.decode(packet))
        return count + len(context.decode(None))


def swscale_only(path: Path, start_s: float, num_frames: int) -> int:
    """Seek, decode everything, resize in swscale: the plain PyAV way."""
    count = 0
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        container.seek(int(start_s / stream.time_base), stream=stream)
        for frame in container.decode(stream):
            if frame.time >= start_s + CLIP_S:
                break
            if frame.time > start_s - 1 / FPS:
                frame.reformat(149, SIZE, "rgb24", interpolation=Interpolation.AREA).to_ndarray()
                count += 1
    return count


def torchcodec_way() -> Decode | None:
    """Torchcodec's reader, or None where it is not installed."""
    try:
        from torchcodec.decoders import VideoDecoder

        VideoDecoder(str(make_files()[0]))
    except (ImportError, OSError, RuntimeError) as error:
        print(f"torchcodec is left out: {str(error).splitlines()[0]}", file=sys.stderr)
        return None

    def read(path: Path, start_s: float, num_frames: int) -> torch.Tensor:
        decoder = VideoDecoder(str(path), num_ffmpeg_threads=1, seek_mode="approximate")
        frames = decoder.get_frames_played_at(frame_times(start_s, CLIP_S, num_frames).tolist()).data
        resized = interpolate(frames, (SIZE, round(WIDTH * SIZE / HEIGHT)), mode="bilinear", antialias=True)
        return resized[..., 18 : 18 + SIZE].permute(0, 2, 3, 1).contiguous()

    return read


def decord_way() -> Decode | None:
    """decord2's reader, which resizes inside its decoder, or None where it is not installed."""
    try:
        import decord
    except (ImportError, OSError, RuntimeError) as error:
        print(f"decord2 is left out: {str(error).splitlines()[0]}", file=sys.stderr)
        return None

    def read(path: Path, start_s: float, num_frames: int) -> np.ndarray:
        reader = decord.VideoReader(str(path), width=149, height=SIZE, num_threads=1)
        used = np.floor(frame_times(start_s, CLIP_S, num_frames) * FPS + 1e-6).astype(int)
        return np.ascontiguousarray(reader.get_batch(used).asnumpy()[:, :, 18 : 18 + SIZE])

    return read


# ---- sections ----


def rates(ways: dict[str, Way], over: Sequence[Window], num_rounds: int) -> dict[str, float]:
    """Clips a second of each way: medians over interleaved rounds."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(num_rounds + 1):  # the first one warms up
        for name, way in ways.items():
            began = time.perf_counter()
            for window in over:
                way(window)
            if number:
                times[name].append((time.perf_counter() - began) / len(over))
    return {name: 1 / median(values) for name, values in times.items()}


def section_video(num_rounds: int) -> dict[str, Any]:
    """The picture alone, 30 and 16 frames of a second."""
    paths = make_files()
    chosen = windows(paths, 12)
    result: dict[str, Any] = {"bytes_per_file": {"original": median(map(bytes_of, paths))}}
    optional = {"torchcodec": torchcodec_way(), "decord2": decord_way()}
    for num_frames in (30, 16):

        def ours(path: Path, start_s: float, num_frames: int) -> Any:
            return decode_clip(path, start_s, CLIP_S, num_frames=num_frames, size=SIZE, offset=0.5, sample_rate=0)

        ways: dict[str, Decode] = {"official": official_video, "ours": ours, "libav, same skipping": libav}
        ways |= {"PyAV, resized in swscale": swscale_only}
        ways |= {name: way for name, way in optional.items() if way is not None}
        calls = {name: lambda w, way=way, n=num_frames: way(*w, n) for name, way in ways.items()}
        found = rates(calls, chosen, num_rounds)
        result[f"{num_frames} frames"] = {
            "clips_per_s": found,
            "ours_times_official": found["ours"] / found["official"],
            "ours_share_of_libav": found["ours"] / found["libav, same skipping"],
            "ours_times_peers": {name: found["ours"] / found[name] for name in optional if name in found},
        }
    return result


def section_end_to_end(num_rounds: int) -> dict[str, Any]:
    """From a file to (video, log-mel), 30 frames and a second of sound."""
    paths = make_files()
    chosen = windows(paths, 12)
    ffmpeg = find_ffmpeg()
    log_mel = LogMel(AudioConfig(sample_rate=RATE))
    num_frames = 30

    def official(window: Window) -> Any:
        return official_video(*window, num_frames), official_logmel(official_sound(*window, ffmpeg))

    def finish(frames: Any, waveform: Any) -> Any:
        with torch.no_grad():
            return frames, log_mel(torch.from_numpy(waveform)[None].float() / 32768)

    def from_file(window: Window) -> Any:
        return finish(
            *decode_clip(*window, CLIP_S, num_frames=num_frames, size=SIZE, offset=0.5, sample_rate=RATE)
        )  # fmt: skip

    def from_shards(folder: Path, size: int) -> Way:
        rows, reader = open_shards(str(folder), FOLDER / "cache", 1.0)
        assert reader is not None
        request = modalities.Request(num_frames, size, RATE)
        reader = reader.select(rows, request)
        row_of = {Path(path).stem: row for row, path in enumerate(rows["path"].to_pylist())}

        def read(window: Window) -> Any:
            return finish(*reader.read(row_of[window[0].stem], modalities.Window(window[1], CLIP_S), request)[:2])

        return read

    def from_small_files(folder: Path, size: int) -> Way:
        small = {path.stem: path for path in folder.rglob("*.mp4")}
        wanted = {"num_frames": num_frames, "size": size, "offset": 0.5, "sample_rate": RATE}
        return lambda window: finish(*decode_clip(small[window[0].stem], window[1], CLIP_S, **wanted))

    ways: dict[str, Way] = {"official": official, "ours, original files": from_file}
    prepared: dict[str, Path] = {}
    for size in (SIZE, STORED_SIZE):
        for name, reader_of, form, aspect in (
            (f"small files of {size}", from_small_files, "files", 0),
            (f"shards of {size}", from_shards, "shards", 0),
            (f"shards of {size}, middle squares", from_shards, "shards", 1),
        ):
            prepared[name] = make_prepared(paths, form, size, aspect)
            ways[f"ours, {name}"] = reader_of(prepared[name], size)
    found = rates(ways, chosen, num_rounds)
    silence = np.zeros(RATE, np.int16)
    parts = {
        "official video": lambda w: official_video(*w, num_frames),
        "official sound": lambda w: official_sound(*w, ffmpeg),
        "ours video": lambda w: decode_clip(
            *w, CLIP_S, num_frames=num_frames, size=SIZE, offset=0.5, sample_rate=0
        ),
        "ours sound": lambda w: decode_clip(*w, CLIP_S, num_frames=0, size=SIZE, offset=0.5, sample_rate=RATE),
        "ours log-mel": lambda w: finish(None, silence),
        "official log-mel": lambda w: official_logmel(silence / 32768),
    }  # fmt: skip
    return {
        "ffmpeg": "a process" if ffmpeg else "not found: the sound of `official` is read inside the process",
        "clips_per_s": found,
        "times_official": {name: rate / found["official"] for name, rate in found.items() if name != "official"},
        "parts_ms": {name: 1e3 / rate for name, rate in rates(parts, chosen, num_rounds).items()},
        "bytes_per_file": {
            "original": median(map(bytes_of, paths)),
            **{name: bytes_of(folder) / len(paths) for name, folder in prepared.items()},
        },
    }


def loader_of(root: Path, num_workers: int, *overrides: str, times: int = 1) -> tuple[ClipDataModule, int]:
    """The data module that training uses on a folder, its clips so many times over; and how many they are then."""
    settings = [f"data.root={root}", f"data.num_workers={num_workers}", f"data.cache_dir={FOLDER / 'cache'}"]
    config = load_config(None, [*settings, "heads.num_clusters=2", "trainer.accelerator=cpu", *overrides])
    manifest, media = prepare_data(config)
    manifest = pa.concat_tables([manifest] * times).combine_chunks()
    return ClipDataModule(config, manifest, media), len(manifest)


def make_many(paths: Sequence[Path], count: int) -> Path:
    """A folder of links to a few files: the same is read, but windows differ."""
    folder = FOLDER / f"many-{count}"
    for number in range(count):
        link = folder / "train" / f"{number:03d}.mp4"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            os.link(paths[number % len(paths)], link)
    return folder


def section_loader(num_rounds: int) -> dict[str, Any]:
    """The loader of training, two processes against one, each on a core of its own; and what it reads, without it."""
    paths = make_files()
    sets = {
        "original files": (make_many(paths, 480), 1),
        "shards": (make_prepared(paths, "shards", STORED_SIZE), 1920 // NUM_FILES),
    }
    sizes = (f"video.decode_size={STORED_SIZE}", f"video.size={SIZE}", "labelling.batch_size=16")  # as training has it
    found: dict[str, dict[str, list[float]]] = {name: {"alone": [], "1": [], "2": []} for name in sets}
    bare: dict[int, list[float]] = {1: [], 2: []}
    for number in range(num_rounds):
        for name, (root, times) in sets.items():
            for workers in (0, 1, 2):
                data, _ = loader_of(root, workers, *sizes, times=times)
                loader = data.labelling_loader(number)
                found[name][str(workers) if workers else "alone"].append(loader_rate(loader, workers))
        for workers, of_workers in bare.items():
            of_workers.append(bare_rate(workers))
    rates = {name: {way: median(values) for way, values in of_set.items()} for name, of_set in found.items()}
    limits = {workers: median(values) for workers, values in bare.items()}
    return {
        "clips_per_s": rates,
        "two_times_one": {name: of_set["2"] / of_set["1"] for name, of_set in rates.items()},
        "share_of_alone": {name: of_set["1"] / of_set["alone"] for name, of_set in rates.items()},
        "bare_clips_per_s": {f"{workers} processes": rate for workers, rate in limits.items()},
        "bare_two_times_one": limits[2] / limits[1],
    }


def loader_rate(loader: Loader, workers: int) -> float:
    """Clips a second of a pass, once all processes are busy; with 0 workers, of reading the same clips one by one."""
    if not workers:
        keys = list(islice(loader.sampler, 132))
        for number, key in enumerate(keys):
            if number == 12:
                began = time.perf_counter()
            loader.dataset[key]
        return (len(keys) - 12) / (time.perf_counter() - began)
    count = 0
    for arrived, batch in enumerate(loader, 1):
        if arrived <= 2 * workers:
            began = time.perf_counter()
        else:
            count += len(batch.index)
    return count / (time.perf_counter() - began)


def bare_rate(num_processes: int) -> float:
    """Clips a second of processes that decode and keep nothing: what the machine gives."""
    with get_context("spawn").Pool(num_processes, torch.set_num_threads, (1,)) as pool:
        chosen = windows(make_files(), 40 * num_processes)
        pool.map(decode_only, chosen[: 2 * num_processes], chunksize=2)  # imports
        began = time.perf_counter()
        pool.map(decode_only, chosen, chunksize=4)
        return len(chosen) / (time.perf_counter() - began)


def decode_only(window: Window) -> None:
    """One clip as the loader decodes it."""
    decode_clip(*window, CLIP_S, num_frames=30, size=144, offset=0.5, sample_rate=RATE)


def section_memory(num_rounds: int) -> dict[str, Any]:
    """Resident memory of the loader's processes over 20,000 clips of small files."""
    files = make_many(sorted(make_prepared(make_files(), "files", STORED_SIZE).rglob("*.mp4")), 120)
    small = ["video.num_frames=2", "video.decode_size=32", "video.size=32", "audio.sample_rate=8000"]
    small += ["data.clip_s=0.25", "optim.batch_size=6", "labelling.batch_size=6"]
    data, _ = loader_of(files, 1, *small)
    seen, passes, clips, used = 0, 0, [], []
    while seen < 20_000:
        for batch in data.labelling_loader(passes):
            seen += len(batch.index)
            if seen % 600 == 0:
                clips.append(seen)
                used.append(sum(map(resident_mb, family())))
        passes += 1
    late = np.array(clips) > 2000
    slope, _ = np.polyfit(np.array(clips)[late], np.array(used)[late], 1)
    return {
        "clips": seen,
        "resident_mb": {"after 2,000 clips": float(np.array(used)[late][0]), "at the end": used[-1]},
        "slope_mb_per_1000_clips": float(1000 * slope),
    }


def family() -> list[int]:
    """This process and those below it."""
    found, todo = [], [os.getpid()]
    while todo:
        pid = todo.pop()
        found.append(pid)
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            todo += map(int, task.read_text().split())
    return found


def resident_mb(pid: int) -> float:
    """Its share of the memory that is there, shared pages divided."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3


def section_startup(num_rounds: int) -> dict[str, Any]:
    """From a manifest of a million rows on the disk to the first key of the training order."""
    path = FOLDER / f"manifest-{NUM_ROWS}.parquet"
    if not path.exists():  # in another process: what it takes is not what starting takes
        with get_context("spawn").Pool(1) as pool:
            pool.apply(make_manifest, (path,))
    config = load_config(None, [f"data.root={FOLDER}", "trainer.accelerator=cpu", "data.num_workers=0"])
    peaks, seconds = [peak_mb()], []
    for _ in range(num_rounds):
        began = time.perf_counter()
        data = ClipDataModule(config, judge_for(config, read_manifest(path)))
        keys = data.train_dataloader().sampler
        first = next(iter(keys))
        seconds.append(time.perf_counter() - began)
        assert len(data.ids) == NUM_ROWS and 0 <= first.row < NUM_ROWS
        peaks.append(peak_mb())
        del data, keys
    return {"rows": NUM_ROWS, "seconds": median(seconds), "imports_mb": peaks[0], "peak_mb": peaks[1]}


NUM_ROWS = 1_000_000


def make_manifest(path: Path) -> None:
    """A manifest as a scan writes it, of clips that are all as they should be."""
    numbers = np.arange(NUM_ROWS)
    ids = pa.array(
        [f"train/class_{number % 309:03d}/{number * 7919 % 10**11:011d}_{number:06d}.mp4" for number in numbers]
    )
    columns: dict[str, Any] = {name: pa.nulls(NUM_ROWS, SCHEMA.field(name).type) for name in SCHEMA.names}
    columns |= {"id": ids, "path": ids, "split": pa.array(np.repeat("train", NUM_ROWS))}
    columns |= {
        "label": pa.array([f"class_{number % 309:03d}" for number in numbers]),
        "status": np.repeat("ok", NUM_ROWS),
    }
    columns |= {
        "duration_s": np.full(NUM_ROWS, 10.0),
        "fps": np.full(NUM_ROWS, 30.0),
        "audio_s": np.full(NUM_ROWS, 10.0),
    }
    columns |= {
        "width": np.full(NUM_ROWS, 340),
        "height": np.full(NUM_ROWS, 256),
        "audio_state": np.repeat("ok", NUM_ROWS),
    }
    columns |= {"bytes": 400_000 + numbers, "mtime_ns": 10**18 + numbers}
    table = pa.table({name: pa.array(columns[name]) for name in SCHEMA.names}).cast(SCHEMA)
    write_manifest(table.replace_schema_metadata({"root": str(FOLDER)}), path)


def peak_mb() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


SECTIONS: dict[str, Callable[[int], dict[str, Any]]] = {
    "video": section_video,
    "end to end": section_end_to_end,
    "loader": section_loader,
    "memory": section_memory,
    "startup": section_startup,
}
ONE_CORE = ("video", "end to end")


def run_section(name: str, num_rounds: int) -> None:
    """Run one section in this process and put its figures into the results."""
    torch.set_num_threads(1)
    if name in ONE_CORE:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    figures = SECTIONS[name](num_rounds)
    path = RESULTS / "clips.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    found = machine() | {"load": os.getloadavg()[0], "av": av.__version__, "date": time.strftime("%Y-%m-%d %H:%M")}
    results[name] = {"machine": found, "rounds": num_rounds, "figures": figures}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(json.dumps({name: results[name]}, indent=2))


def page(results: dict[str, Any]) -> str:
    """docs/results/clips.md."""
    video, whole = results["video"]["figures"], results["end to end"]["figures"]
    machine_ = results["end to end"]["machine"]
    kinds = [kind for kind in video if kind.endswith("frames")]
    ways = list(video[kinds[0]]["clips_per_s"])
    rows = []
    for way in ways:
        cells = []
        for kind in kinds:
            rate = video[kind]["clips_per_s"][way]
            cells.append(f"{rate:.1f}, x{rate / video[kind]['clips_per_s']['official']:.2f}")
        rows.append([way, *cells])
    sizes = {"original files": "original"} | {name: name for name in whole["bytes_per_file"]}
    size_of = {f"ours, {way}": f"{whole['bytes_per_file'][size] / SECONDS / 1000:.0f}" for way, size in sizes.items()}
    flow = [
        [way, f"{rate:.1f}", f"x{rate / whole['clips_per_s']['official']:.1f}", size_of.get(way, "")]
        for way, rate in whole["clips_per_s"].items()
    ]
    parts = [[name, f"{ms:.2f}"] for name, ms in whole["parts_ms"].items()]
    return f"""# From files to tensors: measured

Written by `python benchmarks/clips.py --page` from benchmarks/results/clips.json. {machine_["processor"]}, one core,
PyAV {machine_["av"]}, {machine_["date"][:10]}; medians of interleaved rounds. The files are generated: {SECONDS} s,
{WIDTH} x {HEIGHT}, {FPS} frames a second, H.264 with a key frame every 250 frames, stereo AAC. A clip is one second of
them. `official` stands for the usual way, written for this comparison: every frame at full resolution, resized in
floating point, the sound through a process of the ffmpeg command ({whole["ffmpeg"]}), log filter banks in numpy.

## The picture alone

Clips a second, and times `official`. `libav` decodes the same frames with the same skipping and throws them away: it is
the limit.

{markdown_table(["", *(f"{kind} of a second" for kind in kinds)], rows)}

## From the file to (video, log-mel)

30 frames and a second of sound. `small files` and `shards` come from tools/prepare.py, with a short side of {SIZE}
pixels, which is what `official` gives and `original files` gives here, or of {STORED_SIZE}, the default, which leaves
room for random crops.

{markdown_table(["", "clips a second", "times official", "kB a second of media"], flow)}

Milliseconds of the parts, for the original files:

{markdown_table(["", "ms"], parts)}
{page_of_loader(results)}"""


def page_of_loader(results: dict[str, Any]) -> str:
    """What has been measured of the loader."""
    told = ""
    if "loader" in results:
        found = results["loader"]["figures"]
        rows = []
        for name, rates in found["clips_per_s"].items():
            ratios = found["share_of_alone"][name], found["two_times_one"][name]
            rows.append([name, *(f"{rate:.0f}" for rate in rates.values()), *(f"{ratio:.2f}" for ratio in ratios)])
        header = ["clips a second", "read alone", "one process", "two", "one / alone", "two / one"]
        told += f"""
Batches of 16 clips as training gets them, with frames of {STORED_SIZE} pixels. `read alone` are the same clips in the
main process, one after another, without a loader.

{markdown_table(header, rows)}

Two bare processes that decode original files and keep nothing give {found["bare_two_times_one"]:.2f} times one: what
this machine has.
"""
    if "memory" in results:
        found = results["memory"]["figures"]
        first, last = found["resident_mb"].values()
        told += f"""
Over {found["clips"]:,} clips the memory of the loader and its process goes from {first:.0f} to {last:.0f} MB, a
slope of {found["slope_mb_per_1000_clips"]:.2f} MB for 1,000 clips.
"""
    if "startup" in results:
        found = results["startup"]["figures"]
        told += f"""
A manifest of {found["rows"]:,} rows is ready for training, in its random order, after {found["seconds"]:.1f} s, and the
process has then had {found["peak_mb"]:.0f} MB at the most, {found["imports_mb"]:.0f} MB of them after its imports.
"""
    return f"\n## The loader\n{told}" if told else ""


def main() -> None:
    """Run one section, or each in a process of its own; or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--section", choices=list(SECTIONS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--page", action="store_true", help="write docs/results/clips.md from the results")
    args = parser.parse_args()
    if args.page:
        text = page(json.loads((RESULTS / "clips.json").read_text(encoding="utf-8")))
        (PAGES / "clips.md").write_text(text, encoding="utf-8")
        return
    if args.section:
        run_section(args.section, args.rounds)
        return
    make_files()
    for name in SECTIONS:
        command = [sys.executable, __file__, "--section", name, "--rounds", str(args.rounds)]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
