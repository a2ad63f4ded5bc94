"""Files with sound alone: by themselves, and in a folder with films and silent films."""

import shutil
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from selavi.media import decode_clip, probe
from selavi.runs.checkpoint import read_checkpoint
from selavi.runs.folder import RunFolder
from selavi.runs.manifest import read_manifest
from tools import assign, cluster_eval, export_clusters, prepare, train

pytestmark = pytest.mark.end_to_end


def keep(source: Path, target: Path, kind: str) -> Path:
    """Copy the picture or the sound of a film, as it is coded, into a file of its own."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(source)) as film, av.open(str(target), "w", format="mp4") as out:
        [stream] = [stream for stream in film.streams if stream.type == kind]
        copy = out.add_stream_from_template(stream)
        for packet in film.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                out.mux(packet)
    return target


def as_wav(source: Path, target: Path) -> Path:
    """The sound of a film as 16-bit samples."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(source)) as film, av.open(str(target), "w", format="wav") as out:
        rate = film.streams.audio[0].rate
        sound, resampler = out.add_stream("pcm_s16le", rate=rate, layout="mono"), av.AudioResampler("s16", "mono", rate)
        for frame in film.decode(audio=0):
            for block in resampler.resample(frame):
                out.mux(sound.encode(block))
        out.mux(sound.encode(None))
    return target


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, demo_set: Path) -> Path:
    """Of every three films of the demo set one as it is, one as a .wav, one without its sound."""
    root = tmp_path_factory.mktemp("mixed") / "media"
    for number, film in enumerate(sorted(demo_set.glob("*/*/*.mp4"))):
        target = root / film.relative_to(demo_set)
        if number % 3 == 0:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(film, target)
        elif number % 3 == 1:
            as_wav(film, target.with_suffix(".wav"))
        else:
            keep(film, target, "video")
    return root


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, tiny_yaml: Path, mixed: Path) -> list[str]:
    cache_dir = tmp_path_factory.mktemp("cache_of_mixed")
    return ["--config", str(tiny_yaml), f"data.root={mixed}", f"data.cache_dir={cache_dir}"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, usual: list[str]) -> Path:
    folder = tmp_path_factory.mktemp("trained_on_mixed") / "run"
    assert train.main([*usual, f"run_dir={folder}"]) == 0
    return folder


def labels(folder: Path) -> torch.Tensor:
    return read_checkpoint(RunFolder(folder).last_checkpoint)["label_bank"]["labels"]


def test_every_clip_of_a_mixed_folder_is_labelled(run: Path, mixed: Path) -> None:
    manifest = read_manifest(RunFolder(run).manifest)
    assert set(manifest["status"].to_pylist()) == {"ok"}
    assert len(labels(run)) == len(list((mixed / "train").glob("*/*"))) and (labels(run) >= 0).all()


def test_what_is_missing_is_said(usual: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert (
        train.main([*usual, f"run_dir={tmp_path / 'run'}", "trainer.max_epochs=1", "labelling.num_labellings=2"]) == 0
    )
    assert "have no video (such as " in caplog.text and "have no audio (such as " in caplog.text


def test_a_mixed_folder_goes_all_the_way(run: Path, mixed: Path, tmp_path: Path) -> None:
    assert cluster_eval.main([str(run), "--split", "test", "--yardsticks"]) == 0
    assert export_clusters.main([str(run), "--split", "test"]) == 0
    assert (run / "gallery" / "index.html").exists()
    out = tmp_path / "assigned"
    assert assign.main([str(run), str(mixed / "test"), "--out", str(out), "--workers", "0"]) == 0
    rows = pq.read_table(out / "assignments.parquet").to_pylist()
    assert len(rows) == len(list((mixed / "test").glob("*/*"))) and all(row["cluster"] is not None for row in rows)


@pytest.mark.slow
def test_shards_keep_sound_alone_and_small_files_refuse_it(
    usual: list[str], run: Path, mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = ["--cache-dir", str(tmp_path / "cache")]
    sizes = ["--size", "32", "--sample-rate", "8000"]
    assert prepare.main([str(mixed), str(tmp_path / "shards"), *sizes, *cache]) == 0
    assert train.main([*usual, f"data.root={tmp_path / 'shards'}", f"run_dir={tmp_path / 'run'}"]) == 0
    assert len(labels(tmp_path / "run")) == len(labels(run))
    sounds = tmp_path / "sounds"
    sounds.mkdir()
    for number, sound in enumerate((mixed / "train").glob("*/*.wav")):
        shutil.copy(sound, sounds / f"{number}.wav")
    capsys.readouterr()
    assert prepare.main([str(sounds), str(tmp_path / "files"), "--format", "files", *sizes, *cache]) == 3
    assert "none of" in (said := capsys.readouterr().err) and "no_video" in said


@pytest.mark.parametrize("write", [lambda film, target: keep(film, target, "audio"), as_wav], ids=["copied", "wav"])
def test_a_sound_track_alone_sounds_like_that_of_the_film(
    demo_set: Path, tmp_path: Path, write: Callable[[Path, Path], Path]
) -> None:
    """Sample by sample, to the rounding of a resampler that begins elsewhere."""
    for number, film in enumerate(sorted(demo_set.glob("test/*/*.mp4"))):
        sound = write(film, tmp_path / f"{number}.mp4")
        assert (probe(sound, needs_picture=False).width, probe(film).width) == (0, 64)
        for start_s in (0.0, 0.37, 1.0):
            settings = {"num_frames": 0, "size": 32, "offset": 0.5, "sample_rate": 8000}
            found = [decode_clip(path, start_s, 1.0, **settings)[1] for path in (film, sound)]
            assert np.abs(np.subtract(*found, dtype=int)).max() <= 4


def test_a_folder_of_sounds_trains(usual: list[str], demo_set: Path, tmp_path: Path) -> None:
    for film in demo_set.glob("*/*/*.mp4"):
        as_wav(film, (tmp_path / "sounds" / film.relative_to(demo_set)).with_suffix(".wav"))
    words = [*usual, f"data.root={tmp_path / 'sounds'}", "modalities=[audio]", f"run_dir={tmp_path / 'run'}"]
    assert train.main(words) == 0
    assert (labels(tmp_path / "run") >= 0).all()
    assert cluster_eval.main([str(tmp_path / "run"), "--split", "test"]) == 0
    assert export_clusters.main([str(tmp_path / "run"), "--split", "test"]) == 0


def test_pictures_alone_leave_sound_out_and_do_not_count_it_as_bad(
    usual: list[str], mixed: Path, tmp_path: Path
) -> None:
    words = [*usual, "modalities=[video]", f"run_dir={tmp_path / 'run'}"]
    assert train.main(words) == 0
    statuses = read_manifest(RunFolder(tmp_path / "run").manifest)["status"].to_pylist()
    assert statuses.count("no_video") == len(list(mixed.glob("*/*/*.wav")))
    assert set(statuses) == {"ok", "no_video"}
