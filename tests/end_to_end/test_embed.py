"""Vectors of media, made by any encoder, and what becomes of them."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torchvision.models import get_model

from tests.end_to_end.runs import Train
from tools import embed, train

pytestmark = pytest.mark.end_to_end

SMALL = ["data.clip_s=1", "video.num_frames=2", "video.size=32", "video.decode_size=32", "data.num_workers=0"]


@pytest.fixture
def words(demo_set: Path, cache_dir: Path) -> list[str]:
    """Two of the classes, decoded in this process."""
    folders = sorted(path for path in (demo_set / "train").iterdir())[:2]
    return [*map(str, folders), "--workers", "0", *SMALL, f"data.cache_dir={cache_dir}"]


def ids_of(folder: Path) -> list[str]:
    with (folder / "ids.csv").open(newline="") as file:
        return [row["id"] for row in csv.DictReader(file)]


def test_crafted_vectors_of_media_train_a_run(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "vectors"
    assert embed.main([*words, "--with", "crafted", "--out", str(out), "--views", "2"]) == 0
    said = capsys.readouterr().err
    pictures, sound = np.load(out / "video.npy"), np.load(out / "audio.npy")
    assert pictures.shape == (16, 315) and sound.shape == (16, 256) and pictures.dtype == np.float32
    ids = ids_of(out)
    assert ids == sorted(ids) and ids[::2] == ids[1::2] and len(set(ids)) == 8
    assert np.isfinite(pictures).all() and (pictures[::2] != pictures[1::2]).any()
    assert "8 clips have vectors of 2 views each" in said and not (out / "features").exists()
    typed = said.split("Next: train ")[1].split()
    assert f"features.ids={out}/ids.csv" in typed and "features.views=true" in typed
    settings = [f"video_vectors.file={out}/video.npy", f"audio_vectors.file={out}/audio.npy", "data.layout=flat"]
    settings += [f"features.ids={out}/ids.csv", "features.views=true", "heads.num_clusters=2", "trainer.max_epochs=2"]
    settings += ["optim.batch_size=4", "labelling.num_labellings=2", f"run_dir={tmp_path / 'run'}"]
    kinds = "modalities={video_vectors: features, audio_vectors: features}"
    assert train.main(["--config", "features", kinds, *settings, f"data.cache_dir={tmp_path}"]) == 0
    assert len(pq.read_table(tmp_path / "run" / "labels" / "train.parquet")) == 8 * 5


def test_random_views_depend_on_seed_and_clip_alone(words: list[str], tmp_path: Path) -> None:
    def embedded(name: str, *more: str) -> np.ndarray:
        out = str(tmp_path / name)
        common = [*words, "--with", "crafted", "--modalities", "video", "--random", "--views", "2", "--out", out]
        assert embed.main([*common, "video.crop_fraction=[0.5,0.9]", *more]) == 0
        return np.load(tmp_path / name / "video.npy")

    once = embedded("once")
    assert (once[::2] != once[1::2]).any(1).all()
    assert np.array_equal(embedded("again", "--shard-clips", "3"), once)
    assert (embedded("other", "seed=1") != once).any(1).all()


def test_shards_tasks_and_an_interruption_change_nothing(words: list[str], tmp_path: Path) -> None:
    def embedded(name: str, *more: str) -> int:
        return embed.main([*words, "--with", "crafted", "--out", str(tmp_path / name), *more])

    assert embedded("whole") == 0
    for task in ("0/2", "1/2"):
        assert embedded("tasks", "--shard-clips", "3", "--task", task) == 0
    assert ids_of(tmp_path / "whole") == ids_of(tmp_path / "tasks")
    for name in ("video.npy", "audio.npy"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "tasks" / name).read_bytes()
    assert embedded("again", "--shard-clips", "3", "--task", "0/2") == 0
    assert not (tmp_path / "again" / "ids.csv").exists() and len(list((tmp_path / "again" / "parts").iterdir())) == 2
    assert embedded("again", "--shard-clips", "3", "--task", "0/1") == 0
    assert (tmp_path / "whole" / "video.npy").read_bytes() == (tmp_path / "again" / "video.npy").read_bytes()
    with_others = embedded("again", "--shard-clips", "3", "--views", "2")
    assert with_others == 2


def test_what_a_clip_lacks_is_no_vector_and_what_is_broken_is_listed(
    words: list[str], tmp_path: Path, media: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = tmp_path / "media", tmp_path / "vectors"
    folder.mkdir()
    for name in ("plain", "mute", "text"):
        shutil.copy(media / f"{name}.mp4", folder)
    common = [str(folder), *words[2:], "--with", "crafted", "--out", str(out), "--dtype", "float16"]
    assert embed.main(common) == 3
    assert "1 of 3 files cannot be used" in capsys.readouterr().err
    assert embed.main([*common, "--max-bad-fraction", "0.5"]) == 0
    assert ids_of(out) == ["mute.mp4", "plain.mp4"]
    assert np.isnan(np.load(out / "audio.npy")).all(1).tolist() == [True, False]
    assert np.load(out / "video.npy").dtype == np.float16
    assert "text.mp4" in (out / "bad.csv").read_text()


def test_the_encoders_of_a_run(fit: Train, words: list[str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert fit(run) == 0
    out = tmp_path / "vectors"
    assert embed.main([*words[:4], "--with", str(run), "--modalities", "audio", "--out", str(out)]) == 0
    assert np.load(out / "audio.npy").shape[0] == 8 and not (out / "video.npy").exists()
    assert embed.main([*words[:4], "--with", str(run), "video.size=64", "--out", str(tmp_path / "other")]) == 2


def test_encoders_of_others(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine_to_embed.py").write_text(
        "def colour():\n    return lambda frames: frames.mean((2, 3, 4))\n"
        "def wrong():\n    return lambda frames: frames\n"
        "def large():\n    return lambda frames: 1e6 * frames.mean((2, 3, 4)).abs() + 1e5\n"
        "def fails():\n    raise RuntimeError('no weights here')\n"
    )
    monkeypatch.chdir(tmp_path)
    common = words
    assert embed.main([*common, "--with", "mine_to_embed:colour", "--out", "colour"]) == 0
    assert np.load("colour/video.npy").shape == (8, 3)
    for function, message in (
        ("wrong", "expected a tensor (8, D), a vector a clip, got (8, 3, 2, 32, 32)"),
        ("fails", "RuntimeError: no weights here"),
        ("none", "has no attribute 'none'"),
    ):
        assert embed.main([*common, "--with", f"mine_to_embed:{function}", "--out", function]) == 2
        assert message in capsys.readouterr().err
    half = ["--with", "mine_to_embed:large", "--dtype", "float16", "--out", "large"]
    assert embed.main([*common, *half]) == 2
    assert "8 of 8 vectors of video have numbers that are not finite as float16" in capsys.readouterr().err
    weights = tmp_path / "weights.pth"
    torch.save(get_model("squeezenet1_0", weights=None).state_dict(), weights)
    model = get_model("resnet18", weights=None)
    torch.save(model.state_dict(), tmp_path / "resnet.pth")
    right = ["--with", "torchvision:resnet18", "--weights", "resnet.pth"]
    assert embed.main([*common, *right, "--out", "resnet"]) == 0
    assert np.load("resnet/video.npy").shape == (8, 512)
    assert embed.main([*common, "--with", "torchvision:resnet18", "--weights", str(weights), "--out", "x"]) == 2
    assert "holds no weights of torchvision's resnet18" in capsys.readouterr().err
    assert embed.main([*common, "--with", "torchvision:resnet18", "--out", "x"]) == 2
    assert embed.main([*common, "--with", "nowhere", "--out", "x"]) == 2
