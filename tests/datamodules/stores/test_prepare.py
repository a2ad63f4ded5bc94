import json
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest

from datamodules.index.manifest import usable
from datamodules.index.scan import scan
from datamodules.processes import Failure
from datamodules.stores import prepare as prepare_module
from datamodules.stores.prepare import (
    LOCK,
    Job,
    PrepareSettings,
    assign_shards,
    describe_summary,
    encode_file,
    encode_part,
    estimate_bytes,
    on_screen,
    prepare,
    thin,
)
from datamodules.stores.shards import FRAME, open_shards, tar_name
from selavi.errors import UsageError
from selavi.media import MediaError, decode_clip, encode_clip, encode_jpeg, latest_frames, probe, stream_frames
from selavi.modalities import Request, Window
from selavi.runs.manifest import read_manifest
from tools import prepare as tool

SMALL = ["--size", "32", "--sample-rate", "8000", "--shard-mb", "1", "--workers", "1"]


def contents(folder: Path) -> dict[str, bytes]:
    """What every file holds, but for the lock, which says who wrote here and when."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != LOCK]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory, moving_square: np.ndarray, chirp: np.ndarray) -> Path:
    """Forty files of 3 s in two splits; with --sample-rate 48000 they fill several shards of 1 MB."""
    root = tmp_path_factory.mktemp("many") / "media"
    for number in range(40):
        path = root / ("test" if number % 4 == 0 else "train") / "class" / f"{number:02d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        frames = np.roll(moving_square, number, 2)
        encode_clip(path, frames, np.roll(chirp, 100 * number), fps=12, sample_rate=8000)
    return root


def command(root: Path, out: Path, cache: Path, *more: str) -> list[str]:
    return [str(root), str(out), "--cache-dir", str(cache), *SMALL, "--sample-rate", "48000", *more]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shards", "files"])
def test_killed_half_way_and_run_again_it_gives_the_same_bytes(
    many: Path, tmp_path: Path, repository: Path, kind: str
) -> None:
    originals = contents(many)
    cache = tmp_path / "cache"
    assert tool.main(command(many, tmp_path / "whole", cache, "--format", kind)) == 0
    whole = contents(tmp_path / "whole")
    assert len([name for name in whole if name.endswith((".tar", ".mp4"))]) >= 4

    broken = tmp_path / "broken"
    script = [sys.executable, str(repository / "tools" / "prepare.py")]
    process = subprocess.Popen(
        [*script, *command(many, broken, cache, "--format", kind)], cwd=repository, env=os.environ | {"PYTHONPATH": "."}
    )
    deadline = time.monotonic() + 100
    while len(list(broken.rglob("*.part"))) < 3 and len(list(broken.rglob("*.mp4"))) < 9:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (broken / "shards.json").exists()
    with pytest.raises(UsageError, match=r"if selavi prepare was interrupted, run it again"):
        open_shards(str(broken), cache, 1)
    assert tool.main(command(many, broken, cache, "--format", kind)) == 0
    assert contents(broken) == whole
    assert tool.main(command(many, broken, cache, "--format", kind)) == 0  # nothing left to do
    assert contents(broken) == whole
    assert contents(many) == originals

    with pytest.raises(UsageError, match=r"was begun with other input.* size: 32, now 48"):
        prepare(scan(many, cache, 1), broken, PrepareSettings(kind, size=48, sample_rate=48000, shard_mb=1))


@pytest.fixture(scope="module")
def odd(media: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    """Names that are hard to keep, and two files that are not what they were when they were scanned."""
    root = tmp_path_factory.mktemp("odd") / "root"
    names = {
        "train/a.b.c/ä ö/-x_1.2.mp4": "plain",
        "train/mute.avi": "mute",
        "silent.mp4": "silent",
        "short_sound.mp4": "short_sound",
        "changed.mp4": "plain",
        "vanished.mp4": "plain",
        "text.mp4": "text",
    }
    for name, source in names.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((media / f"{source}.mp4").read_bytes())
    manifest = scan(root, root.parent / "cache", 1)
    (root / "changed.mp4").write_bytes((media / "mute.mp4").read_bytes())
    (root / "vanished.mp4").unlink()
    return root, manifest


@pytest.mark.parametrize("kind", ["shards", "files"])
def test_what_fails_is_left_out_and_named(odd: tuple[Path, pa.Table], tmp_path: Path, kind: str) -> None:
    _, manifest = odd
    settings = PrepareSettings(kind, size=32, sample_rate=8000)
    summary = prepare(manifest, tmp_path / "out", settings, workers=1)
    assert {clip_id: reason for clip_id, (reason, _) in summary.faults.items()} == {
        "changed.mp4": "changed",
        "vanished.mp4": "vanished",
    }
    assert (summary.num_clips, summary.num_encoded) == (4, 4)
    said = describe_summary(summary, tmp_path / "out", settings)
    assert "left out: 1 changed, such as changed.mp4: " in said
    assert f"data.root={tmp_path / 'out'} video.decode_size=32 audio.sample_rate=8000" in said
    made, reader = open_shards(str(tmp_path / "out"), tmp_path / "cache", 0)
    assert made["id"].to_pylist() == manifest["id"].to_pylist()
    for name in ("split", "label", "duration_s", "audio_state"):
        assert made[name].to_pylist() == manifest[name].to_pylist()
    statuses = dict(zip(made["id"].to_pylist(), made["status"].to_pylist(), strict=True))
    assert statuses["text.mp4"] == "not_media" and statuses["changed.mp4"] == "changed"
    assert len(usable(made)) == 4
    assert (reader is None) == (kind == "files")
    if kind == "files":
        paths = dict(zip(made["id"].to_pylist(), made["path"].to_pylist(), strict=True))
        assert paths["train/mute.avi"] == "train/mute.avi.mp4"
        info = probe(tmp_path / "out" / paths["train/a.b.c/ä ö/-x_1.2.mp4"])
        assert (info.width, info.height, info.audio_state) == (48, 32, "ok")


def test_fewer_frames_a_second_keep_their_times(media: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "plain.mp4").write_bytes((media / "plain.mp4").read_bytes())
    rows = scan(root, tmp_path / "cache", 1)
    prepare(rows, tmp_path / "out", PrepareSettings(size=32, aspect=0, sample_rate=8000, fps=4), workers=1)
    records = np.load(tmp_path / "out" / "shard-000000.frames.npy")
    assert records.dtype == FRAME
    assert records["time_s"] == pytest.approx(np.arange(12) / 4, abs=1e-3)
    _, reader = open_shards(str(tmp_path / "out"), tmp_path / "cache", 0)
    assert reader is not None
    request = Request(4, 32)
    kept, *_ = reader.select(rows, request).read(0, Window(1.0, 1.0, 0.0), request)
    seen, _ = decode_clip(root / "plain.mp4", 1.0, 1.0, num_frames=4, size=32, offset=0.0, sample_rate=0)
    assert kept is not None
    assert np.abs(kept.astype(int) - seen).mean() < 6


def varied_times(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.choice([0.01, 0.04, 0.04, 0.3], rng.integers(1, 60))) - 0.01 * (seed % 3)


@pytest.mark.parametrize("seed", range(12))
def test_one_frame_at_a_time_gives_what_all_times_together_say(seed: int) -> None:
    times_s = varied_times(seed)
    for fps in (2.0, 24.0, 25.0, 29.97, 90.0):
        grid = np.arange(0, times_s[-1] + 1e-6, 1 / fps)
        kept = list(thin(zip(times_s.tolist(), range(len(times_s)), strict=True), fps))
        assert [frame for _, frame in kept] == np.unique(latest_frames(times_s, grid)).tolist()
        wanted = np.arange(50) / fps
        shown = list(on_screen(zip(times_s.tolist(), range(len(times_s)), strict=True), wanted.tolist()))
        assert shown == latest_frames(times_s, wanted).tolist()


@pytest.mark.parametrize("kind", ["shards", "files"])
def test_few_frames_of_a_long_recording_are_in_memory(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Literal["shards", "files"]
) -> None:
    frame, most, alive = np.zeros((32, 48, 3), np.uint8), 0, 0

    def forget() -> None:
        nonlocal alive
        alive -= 1

    def long(path: Path, *, size: int, **span: float) -> Iterator[tuple[float, np.ndarray]]:
        nonlocal most, alive
        if path.name.startswith("."):  # what was written
            yield from stream_frames(path, size=size)
            return
        for number in range(300):
            picture = frame.copy().view(Frame)
            alive += 1
            most = max(most, alive)
            weakref.finalize(picture, forget)
            yield number / 12, picture

    monkeypatch.setattr("datamodules.stores.prepare.stream_frames", long)
    facts = scan(many, tmp_path / "cache", 1).to_pylist()[0] | {"duration_s": 25.0}
    encode = {"shards": encode_part, "files": encode_file}[kind]
    encode(Job("0", facts, str(tmp_path / "0.part")), root=str(many), settings=PrepareSettings(kind, size=32))
    assert 1 <= most <= 5


class Frame(np.ndarray):
    """An array that can be watched."""


@pytest.mark.parametrize("kind", ["shards", "files"])
def test_what_reads_back_as_another_picture_is_a_fault(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Literal["shards", "files"]
) -> None:
    if kind == "shards":
        white = partial(np.full_like, fill_value=255)
        monkeypatch.setattr(
            "datamodules.stores.prepare.encode_jpeg", lambda frame, quality: encode_jpeg(white(frame), quality)
        )
    else:
        dark = partial(map, lambda frame: 255 - frame)
        monkeypatch.setattr(
            "datamodules.stores.prepare.encode_clip", lambda p, f, w, **k: encode_clip(p, dark(f), w, **k)
        )
    encode = {"shards": encode_part, "files": encode_file}[kind]
    job = Job("0", scan(many, tmp_path / "cache", 1).to_pylist()[0], str(tmp_path / "out" / "0.mp4"))
    (tmp_path / "out").mkdir()
    with pytest.raises(MediaError, match=r"corrupt: reads back \d+ levels a pixel off"):
        encode(job, root=str(many), settings=PrepareSettings(kind, size=32, sample_rate=8000))
    assert not list((tmp_path / "out").iterdir())


def test_places_that_are_refused(many: Path, tmp_path: Path) -> None:
    rows = scan(many, tmp_path / "cache", 1)
    for inside in (many, many / "train" / "new"):
        with pytest.raises(UsageError, match="is inside the media folder"):
            prepare(rows, inside, PrepareSettings())
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="is not empty, and was not made by this tool"):
        prepare(rows, foreign, PrepareSettings())
    assert os.listdir(foreign) == ["thesis.tex"]
    (foreign / "thesis.tex").rename(foreign / "parts")  # a name that prepared sets have, too
    with pytest.raises(UsageError, match="is not empty, and was not made by this tool"):
        prepare(rows, foreign, PrepareSettings())
    (foreign / "parts").unlink()
    (foreign / "parts").mkdir()
    (foreign / "parts" / "thesis.tex").touch()
    with pytest.raises(UsageError, match="is not empty, and was not made by this tool"):
        prepare(rows, foreign, PrepareSettings())
    with pytest.raises(UsageError, match="is a file"):
        prepare(rows, foreign / "parts" / "thesis.tex", PrepareSettings())
    nothing = rows.slice(0, 0)
    with pytest.raises(UsageError, match="nothing to prepare"):
        prepare(nothing, tmp_path / "new", PrepareSettings())
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"format": "zip"},
        {"size": 33},
        {"aspect": 0.5},
        {"fps": -1},
        {"quality": 0},
        {"shard_mb": 0},
        {"sample_rate": 10},
    ],
)
def test_settings_that_are_refused(wrong: dict) -> None:
    name = next(iter(wrong)).replace("_", "-")
    with pytest.raises(UsageError, match=f"--{name} must be"):
        PrepareSettings(**wrong)


def table(num_rows: int) -> pa.Table:
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "id": [f"{n:06d}" for n in range(num_rows)],
            "split": [("train", "test")[n % 5 == 0] for n in range(num_rows)],
            "duration_s": rng.uniform(2, 20, num_rows),
            "fps": np.full(num_rows, 25.0),
            "width": np.full(num_rows, 320),
            "height": np.full(num_rows, 240),
        }
    )


def test_the_assignment_to_shards_is_fixed_mixed_and_even() -> None:
    rows, settings = table(3000), PrepareSettings(shard_mb=64)
    order, ends = assign_shards(rows, settings)
    assert sorted(order.tolist()) == list(range(3000))
    again, _ = assign_shards(rows, settings)
    assert (order == again).all()
    sizes, splits = estimate_bytes(rows, settings)[order], np.array(rows["split"].to_pylist())[order]
    starts = np.concatenate([[0], ends[:-1]])
    shard_bytes = np.add.reduceat(sizes, starts)
    assert shard_bytes.max() < 64e6 + sizes.max()
    assert np.sort(shard_bytes)[2:].min() > 64e6 - sizes.max()  # all but the last of each split are full
    for start, end in zip(starts, ends, strict=True):
        assert len(set(splits[start:end])) == 1
        if end - start > 20:
            assert abs(np.mean(order[start:end]) - 1500) < 900  # drawn from everywhere


def test_the_estimate_is_near_what_a_shard_takes(tmp_path: Path, many: Path) -> None:
    rows = scan(many, tmp_path / "cache", 1)
    settings = PrepareSettings(size=32, sample_rate=48000, shard_mb=1)
    out = tmp_path / "out"
    assert (
        tool.main([str(many), str(out), "--cache-dir", str(tmp_path / "cache"), *SMALL, "--sample-rate", "48000"]) == 0
    )
    taken = sum(path.stat().st_size for path in out.glob("*.tar"))
    assert 0.5 < taken / estimate_bytes(rows, settings).sum() < 2
    description = json.loads((out / "shards.json").read_text())
    assert len(description["shard_bytes"]) == len(list(out.glob("*.tar")))
    assert (out / tar_name(0)).stat().st_size < description["shard_bytes"][0]
    assert read_manifest(out / "manifest.parquet").schema.metadata[b"root"].decode() == str(many.resolve())


@pytest.mark.parametrize("kind", ["shards", "files"])
def test_what_failed_in_passing_is_tried_again_by_the_same_command(
    media: Path, tmp_path: Path, kind: Literal["shards", "files"], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, settings = tmp_path / "root", PrepareSettings(kind, size=32, sample_rate=8000)
    root.mkdir()
    for name in ("plain", "mute", "silent", "short_sound"):
        (root / f"{name}.mp4").write_bytes((media / f"{name}.mp4").read_bytes())
    manifest = scan(root, tmp_path / "cache", 1)
    whole = prepare(manifest, tmp_path / "whole", settings, workers=1)
    failing = {"plain.mp4": "timeout", "mute.mp4": "unreadable", "silent.mp4": "corrupt"}
    asked: list[str] = []

    def run_here(function, jobs, **_: object):
        for number, job in enumerate(jobs):
            name = job.facts["id"]
            asked.append(name)
            yield number, Failure(failing[name], "now") if name in failing else function(job)

    monkeypatch.setattr(prepare_module, "run_jobs", run_here)
    first = prepare(manifest, tmp_path / "out", settings)
    assert {name: reason for name, (reason, _) in first.faults.items()} == failing
    assert "the same command tries 2 of them again" in describe_summary(first, tmp_path / "out", settings)
    del failing["plain.mp4"], failing["mute.mp4"]
    asked.clear()
    again = prepare(manifest, tmp_path / "out", settings)
    assert {name: reason for name, (reason, _) in again.faults.items()} == {"silent.mp4": "corrupt"}
    assert again.num_clips == whole.num_clips - 1
    assert (kind == "shards") or sorted(asked) == ["mute.mp4", "plain.mp4"]
    asked.clear()
    assert prepare(manifest, tmp_path / "out", settings).num_encoded == 0
    assert not asked
    made, _ = open_shards(str(tmp_path / "out"), tmp_path / "cache", 0)
    assert sorted(usable(made)["id"].to_pylist()) == ["mute.mp4", "plain.mp4", "short_sound.mp4"]


def test_a_refusal_names_the_clips_that_differ(media: Path, tmp_path: Path) -> None:
    root, settings = tmp_path / "root", PrepareSettings(size=32, sample_rate=8000)
    for name in ("train/a/plain", "train/a/mute", "train/b/silent"):
        (root / f"{name}.mp4").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.mp4").write_bytes((media / f"{Path(name).name}.mp4").read_bytes())
    prepare(scan(root, tmp_path / "cache", 1), tmp_path / "out", settings, workers=1)
    (root / "train/a/plain.mp4").rename(root / "train/b/plain.mp4")
    os.utime(root / "train/b/silent.mp4", ns=(1, 1))
    with pytest.raises(UsageError) as caught:
        prepare(scan(root, tmp_path / "cache", 1), tmp_path / "out", settings, workers=1)
    error = str(caught.value)
    assert "1 is gone (such as 'train/a/plain.mp4'), 1 is new (such as 'train/b/plain.mp4')" in error
    assert "1 have another size or time (such as 'train/b/silent.mp4')" in error
    with pytest.raises(UsageError, match=r"3 have another split or label \(such as 'train/a/mute.mp4'\)"):
        (root / "train/b/plain.mp4").rename(root / "train/a/plain.mp4")
        os.utime(root / "train/b/silent.mp4", ns=(1, 1))
        prepare(scan(root, tmp_path / "cache", 1, layout="flat"), tmp_path / "out", settings, workers=1)
