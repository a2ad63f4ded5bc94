import os
import pickle
import shutil
from collections.abc import Callable
from copy import copy
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from datamodules.index.manifest import usable
from datamodules.index.scan import scan
from datamodules.loading.dataset import ClipDataset
from datamodules.loading.loader import Loader
from datamodules.loading.sampling import ViewKey
from datamodules.loading.workers import LoaderProcesses
from datamodules.stores.cache import DecodedCache, build_cache
from selavi.batch import NUM_DRAWS, ClipBatch
from selavi.config import Config
from selavi.modalities import num_bytes

Tiny = Callable[..., Config]


@pytest.fixture(scope="module")
def rows(demo_set: Path, cache_dir: Path) -> pa.Table:
    return usable(scan(demo_set, cache_dir, workers=1))


@pytest.fixture(scope="module")
def cache(rows: pa.Table, cache_dir: Path) -> DecodedCache:
    return build_cache(rows, cache_dir, 32, 8000, workers=1)[0]


KEYS = [ViewKey(0, "train", 0), ViewKey(5, "train", 3), ViewKey(20, "label", 1), ViewKey(47, "eval", 2)]


@pytest.mark.parametrize("key", KEYS, ids=str)
def test_a_cached_view_is_the_view_of_the_file(tiny: Tiny, rows: pa.Table, cache: DecodedCache, key: ViewKey) -> None:
    config = tiny()
    from_file = ClipDataset(rows, config, None, num_views=3)[key]
    from_cache = ClipDataset(rows, config, cache.select(rows), num_views=3)[key]
    assert from_file.error is None and from_cache.error is None
    assert torch.equal(from_file.inputs["video"], from_cache.inputs["video"])
    assert from_file.inputs["audio"].shape == from_cache.inputs["audio"].shape == (8000,)
    heard, kept = from_file.inputs["audio"].double(), from_cache.inputs["audio"].double()
    assert (heard - kept).square().mean().sqrt() < 0.1 * heard.square().mean().sqrt()
    assert torch.equal(from_file.draws, from_cache.draws)
    assert from_file.present == from_cache.present == {"video": True, "audio": True}


def test_a_view_has_the_shapes_of_the_settings(tiny: Tiny, rows: pa.Table) -> None:
    clip = ClipDataset(rows, tiny("data.clip_s=0.5", "video.num_frames=3"))[ViewKey(7, "train", 0)]
    assert clip.index == 7
    assert clip.inputs["video"].shape == (3, 32, 32, 3) and clip.inputs["video"].dtype == torch.uint8
    assert clip.inputs["audio"].shape == (4000,) and clip.inputs["audio"].dtype == torch.int16
    assert clip.draws.shape == (NUM_DRAWS,) and clip.draws.dtype == torch.float32


def test_another_epoch_is_another_view_and_evaluation_does_not_move(tiny: Tiny, rows: pa.Table) -> None:
    dataset = ClipDataset(rows, tiny(), None, num_views=2)
    first, second = dataset[ViewKey(3, "train", 0)], dataset[ViewKey(3, "train", 1)]
    assert not torch.equal(first.inputs["audio"], second.inputs["audio"])
    assert not torch.equal(first.draws, second.draws)
    assert torch.equal(first.inputs["audio"], dataset[ViewKey(3, "train", 0)].inputs["audio"])
    other_seed = ClipDataset(rows, tiny("seed=1"), None, num_views=2)
    assert not torch.equal(other_seed[ViewKey(3, "train", 0)].inputs["audio"], first.inputs["audio"])
    assert torch.equal(
        other_seed[ViewKey(3, "eval", 1)].inputs["audio"], dataset[ViewKey(3, "eval", 1)].inputs["audio"]
    )


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_one_modality_is_decoded_alone(tiny: Tiny, rows: pa.Table, cache: DecodedCache, modality: str) -> None:
    config = tiny(f"modalities=[{modality}]")
    for dataset in (ClipDataset(rows, config), ClipDataset(rows, config, cache.select(rows))):
        clip = dataset[ViewKey(2, "train", 0)]
        assert clip.present == {modality: True}
        assert [*clip.inputs] == [modality]


def odd_rows(media: Path, tmp_path: Path) -> pa.Table:
    root = tmp_path / "root"
    root.mkdir()
    for name in ("mute", "plain", "silent", "short_sound"):
        (root / f"{name}.mp4").write_bytes((media / f"{name}.mp4").read_bytes())
    return scan(root, tmp_path / "cache", workers=1)


def test_a_modality_that_is_not_there_is_masked(tiny: Tiny, media: Path, tmp_path: Path) -> None:
    rows = odd_rows(media, tmp_path)
    cache, faults = build_cache(rows, tmp_path / "cache", 32, 8000, workers=1)
    assert faults == {}
    for dataset in (ClipDataset(rows, tiny()), ClipDataset(rows, tiny(), cache.select(rows))):
        present = {clip_id: dataset[ViewKey(n, "eval", 0)].present for n, clip_id in enumerate(rows["id"].to_pylist())}
        assert present == {
            "mute.mp4": {"video": True, "audio": False},
            "plain.mp4": {"video": True, "audio": True},
            "short_sound.mp4": {"video": True, "audio": True},
            "silent.mp4": {"video": True, "audio": False},
        }
        mute = dataset[ViewKey(0, "eval", 0)]
        assert mute.error is None
        assert mute.inputs["audio"].shape == (8000,) and (mute.inputs["audio"] == 0).all()


def test_zeros_count_as_sound_where_the_policy_says_so(tiny: Tiny, media: Path, tmp_path: Path) -> None:
    rows, config = odd_rows(media, tmp_path), tiny("data.audio_policy=zeros")
    cache, _ = build_cache(rows, tmp_path / "cache", 32, 8000, workers=1)
    for dataset in (ClipDataset(rows, config), ClipDataset(rows, config, cache.select(rows))):
        clips = {clip_id: dataset[ViewKey(n, "eval", 0)] for n, clip_id in enumerate(rows["id"].to_pylist())}
        assert all(clip.present == {"video": True, "audio": True} for clip in clips.values())
        heard = {clip_id: bool((clip.inputs["audio"] != 0).any()) for clip_id, clip in clips.items()}
        assert heard == {"mute.mp4": False, "plain.mp4": True, "short_sound.mp4": True, "silent.mp4": False}
    (tmp_path / "root" / "mute.mp4").unlink()
    broken = ClipDataset(rows, config)[ViewKey(0, "eval", 0)]
    assert broken.error is not None and broken.present == {"video": False, "audio": False}


def test_a_window_after_the_sound_is_masked_or_zeros(tiny: Tiny, media: Path, tmp_path: Path) -> None:
    rows = odd_rows(media, tmp_path)
    late = ViewKey(2, "eval", 2)
    assert rows["id"][2].as_py() == "short_sound.mp4"  # 1.5 s of sound in 3 s
    assert not ClipDataset(rows, tiny(), None, 3)[late].present["audio"]
    assert ClipDataset(rows, tiny("data.audio_policy=zeros"), None, 3)[late].present["audio"]


def test_a_file_that_fails_becomes_a_clip_without_any_modality(tiny: Tiny, media: Path, tmp_path: Path) -> None:
    rows = odd_rows(media, tmp_path)
    (tmp_path / "root" / "plain.mp4").unlink()
    (tmp_path / "root" / "mute.mp4").write_bytes(b"")
    (tmp_path / "root" / "silent.mp4").touch()
    dataset = ClipDataset(rows, tiny())
    mute, plain = dataset[ViewKey(0, "train", 0)], dataset[ViewKey(1, "train", 0)]
    assert plain.present == mute.present == {"video": False, "audio": False}
    assert plain.error == "vanished: No such file or directory"
    assert mute.error is not None and mute.error.startswith("changed: 0 bytes")
    touched = dataset[ViewKey(3, "train", 0)]
    assert touched.error is not None and touched.error.startswith("changed: ")
    assert plain.inputs["video"].shape == (2, 32, 32, 3) and (plain.inputs["video"] == 0).all()
    assert dataset[ViewKey(2, "train", 0)].error is None


@pytest.mark.slow
def test_flipped_bytes_are_the_same_faults_whatever_the_workers(tiny: Tiny, demo_set: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    for number, path in enumerate(sorted(demo_set.rglob("*.mp4"))[:12]):
        shutil.copy(path, root / f"{number:02}.mp4")
    rows = usable(scan(root, tmp_path / "cache", workers=1))
    for number in range(1, 12, 2):  # a disk that rots after the scan: neither size nor date of the file tell
        path, rng = root / f"{number:02}.mp4", np.random.default_rng(number)
        content, stat = np.frombuffer(path.read_bytes(), np.uint8).copy(), path.stat()
        content[rng.integers(len(content) // 10, len(content) // 2, 200)] = rng.integers(0, 256, 200)
        path.write_bytes(content.tobytes())
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    dataset, keys = ClipDataset(rows, tiny()), [ViewKey(row, "train", 0) for row in range(12)]

    def load(workers: int) -> list[ClipBatch]:
        processes = LoaderProcesses(workers, timeout_s=30, pin_memory=False)
        return list(Loader(copy(dataset), keys, 4, clip_bytes=num_bytes(tiny()), processes=processes))  # type: ignore[arg-type]

    alone = load(0)
    faulty = {row for batch in alone for row, _ in batch.errors}
    assert faulty and faulty <= set(range(1, 12, 2))
    for workers in (1, 4):
        for one, other in zip(alone, load(workers), strict=True):
            assert one.errors == other.errors
            assert torch.equal(one.index, other.index) and torch.equal(one.draws, other.draws)
            for name in one.inputs:
                assert torch.equal(one.inputs[name], other.inputs[name])
                assert torch.equal(one.present[name], other.present[name])


def test_a_dataset_crosses_process_borders(tiny: Tiny, rows: pa.Table, cache: DecodedCache) -> None:
    dataset = ClipDataset(rows, tiny(), cache.select(rows))
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[KEYS[0]].inputs["video"], dataset[KEYS[0]].inputs["video"])
    assert len(copy) == len(dataset) == 48
