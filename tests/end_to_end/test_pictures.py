"""A folder of still pictures, some of them no pictures, from the scan to the page."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from datamodules.index.manifest import usable
from selavi.runs.checkpoint import read_checkpoint
from selavi.runs.folder import RunFolder
from selavi.runs.manifest import read_manifest
from tools import assign, cluster_eval, export_clusters, prepare, scan, train

pytestmark = pytest.mark.end_to_end

SETTINGS = """\
modalities: [image]
data: {num_workers: 0, scan_workers: 1, max_bad_fraction: 0.2}
image: {decode_size: 24, size: 16, crop_area: [0.5, 1.0], rotation: 10, blur: 0.2}
encoders: {image_width: 8, image_depth: 9, image_stem: plain}
heads: {num_heads: 2, num_clusters: 4, dropout: 0.1}
labelling: {first: random, marginal: uniform, num_labellings: 3, head_groups: 2, batch_size: 16, warmup_batches: 1}
optim: {batch_size: 8, lr: 0.05, lr_clips: 8, warmup_epochs: 1}
trainer: {max_epochs: 2, accelerator: cpu, log_every_n_steps: 1}
"""
NUM_TRAIN, NUM_TEST = 32, 8


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four colours of eight training and two test pictures, a recording, and three files that are no pictures."""
    root = tmp_path_factory.mktemp("pictures") / "media"
    rng = np.random.default_rng(0)
    colours = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200), "grey": (120, 120, 120)}
    for split, count in (("train", NUM_TRAIN // 4), ("test", NUM_TEST // 4)):
        for name, colour in colours.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise = rng.integers(-30, 30, (30 + number, 40, 3))
                picture = Image.fromarray((np.array(colour) + noise).astype(np.uint8))
                suffix = ("jpg", "png", "webp", "gif", "bmp", "tiff")[number % 6]
                picture.save(folder / f"{number}.{suffix}")
    (root / "train" / "red" / "page.jpg").write_text("<html>not found</html>")
    half = (root / "train" / "red" / "0.jpg").read_bytes()
    (root / "train" / "red" / "half.jpg").write_bytes(half[: len(half) // 2])
    (root / "train" / "red" / "none.png").touch()
    (root / "train" / "red" / "film.mp4").write_bytes(b"not looked at")
    return root


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, pictures: Path) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "pictures.yaml"
    cache_dir = path.parent / "cache"
    path.write_text(SETTINGS.replace("data: {", f"data: {{root: {pictures}, cache_dir: {cache_dir}, "), "utf-8")
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    assert train.main(["--config", str(recipe), f"run_dir={folder}"]) == 0
    return folder


def labels(folder: Path) -> torch.Tensor:
    return read_checkpoint(RunFolder(folder).last_checkpoint)["label_bank"]["labels"]


def test_pictures_are_labelled_and_what_is_none_is_counted(run: Path) -> None:
    manifest = read_manifest(RunFolder(run).manifest)
    assert len(manifest) == NUM_TRAIN + NUM_TEST + 3 and len(usable(manifest)) == NUM_TRAIN + NUM_TEST
    faults = {row["id"].split("/")[-1]: row["status"] for row in manifest.to_pylist() if row["status"] != "ok"}
    assert faults == {"page.jpg": "not_media", "half.jpg": "corrupt", "none.png": "empty"}
    assert set(usable(manifest)["timing"].to_pylist()) == {"still"}
    assert labels(run).shape == (NUM_TRAIN, 2) and labels(run).min() >= 0


@pytest.mark.slow
@pytest.mark.parametrize("settings", [("data.num_workers=2",), ("data.cache_gb=1",)], ids=" ".join)
def test_workers_and_the_cache_change_no_label(run: Path, recipe: Path, tmp_path: Path, settings: tuple[str]) -> None:
    assert train.main(["--config", str(recipe), f"run_dir={tmp_path / 'run'}", *settings]) == 0
    assert torch.equal(labels(tmp_path / "run"), labels(run))


def test_they_are_measured_exported_and_assigned(run: Path, pictures: Path, tmp_path: Path) -> None:
    assert cluster_eval.main([str(run), "--split", "test"]) == 0
    assert json.loads((run / "eval" / "metrics_test.json").read_text())
    unseen = pq.read_table(run / "labels" / "test.parquet")
    assert len(unseen) == 2 * NUM_TEST and unseen["cluster"].null_count == 0
    assert export_clusters.main([str(run), "--split", "test", "--media", "transcode", "--to", "labelstudio"]) == 0
    assert "<Image " in (run / "handover" / "labelstudio" / "config.xml").read_text()
    with (run / "clusters.csv").open(newline="") as file:
        assert len({row["id"] for row in csv.DictReader(file)}) == NUM_TEST
    assert len(list((run / "gallery" / "thumbs").rglob("*.jpg"))) == NUM_TEST
    shown = sorted((run / "gallery" / "media").iterdir())
    assert len(shown) == NUM_TEST and {path.suffix for path in shown} == {".jpg"}
    assert '"pictures":true' in (run / "gallery" / "data" / "index.js").read_text()
    new = tmp_path / "new"
    assert assign.main([str(run), str(pictures / "test"), "--out", str(new), "--workers", "0"]) == 0
    assigned = pq.read_table(new / "assignments.parquet")
    assert len(set(assigned["id"].to_pylist())) == NUM_TEST and assigned["cluster"].null_count == 0


def test_prepared_pictures_train(pictures: Path, recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "prepared"
    common = [str(pictures), str(out), "--pictures", "--size", "24", "--workers", "1", "--cache-dir"]
    assert prepare.main([*common, str(tmp_path / "cache"), "--format", "files"]) == 2
    assert prepare.main([*common, str(tmp_path / "cache")]) == 0
    folder = tmp_path / "run"
    assert train.main(["--config", str(recipe), f"run_dir={folder}", f"data.root={out}"]) == 0
    assert labels(folder).shape == (NUM_TRAIN, 2) and labels(folder).min() >= 0


def test_a_scan_says_which_files_it_left_out(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--workers", "1", "--cache-dir", str(tmp_path / "cache"), "--out", str(tmp_path / "manifest.parquet")]
    assert scan.main([str(pictures), "--pictures", *words]) == 0
    said = capsys.readouterr()
    assert "43 files, read as still pictures." in said.out and f"Usable: {NUM_TRAIN + NUM_TEST} pictures" in said.out
    assert (
        "1 file with another suffix was not read: recordings, which modalities=[video,audio] reads: .mp4 1" in said.out
    )
    assert "--config images" in said.err and "Sound:" not in said.out
    assert scan.main([str(pictures / "test"), *words]) == 0  # no recording there but GIFs, so pictures are meant
    assert "8 files, read as still pictures." in capsys.readouterr().out
    assert scan.main([str(pictures), *words]) == 0  # the film counts, and the pictures are named
    assert "still pictures, which modalities=[image] reads: .jpg" in capsys.readouterr().out


def test_a_folder_without_pictures_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], recipe: Path) -> None:
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "film.mp4").touch()
    assert train.main(["--config", str(recipe), f"run_dir={tmp_path / 'run'}", f"data.root={tmp_path / 'media'}"]) == 2
    said = capsys.readouterr().err
    assert "no picture in it" in said and "recordings, which modalities=[video,audio] reads: .mp4 1" in said


def test_with_sound_it_is_a_frame_of_recordings(tiny_yaml: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    small = ("image.decode_size=32", "image.size=24", "encoders.image_width=8", "encoders.image_depth=9")
    words = ("modalities=[image,audio]", *small, "trainer.max_epochs=1", "labelling.num_labellings=2")
    assert train.main(["--config", str(tiny_yaml), f"run_dir={folder}", *words]) == 0
    assert labels(folder).shape == (32, 2) and labels(folder).min() >= 0
    manifest = read_manifest(RunFolder(folder).manifest)
    assert set(manifest["timing"].to_pylist()) == {"stamps"}
