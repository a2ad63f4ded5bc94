import os
import pickle
import shutil
from collections.abc import Callable
from copy import copy
from io import BytesIO
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from datamodules.clips import ClipDataModule, prepare_data
from datamodules.index.manifest import judge, select_split, usable
from datamodules.index.scan import scan
from datamodules.loading.dataset import ClipDataset
from datamodules.loading.loader import Loader
from datamodules.loading.sampling import TrainSampler, ViewKey
from datamodules.loading.workers import LoaderProcesses
from datamodules.stores.files import FileReader
from datamodules.stores.opening import open_media
from datamodules.stores.prepare import PrepareSettings, prepare
from datamodules.stores.shards import ShardReader, is_prepared, open_shards, pack_clip, tar_name, unpack_clip
from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.errors import UsageError
from selavi.media import MediaError, decode_clip, decode_jpegs, decode_recording, encode_clip, encode_jpeg
from selavi.modalities import Request, Window, num_bytes

Tiny = Callable[..., Config]
RATE = 8000


@pytest.fixture(scope="module")
def manifest(demo_set: Path, cache_dir: Path) -> pa.Table:
    return scan(demo_set, cache_dir, 1)


@pytest.fixture(scope="module")
def shards(manifest: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`demo_set` in several shards."""
    out = tmp_path_factory.mktemp("shards") / "out"
    prepare(manifest, out, PrepareSettings(size=32, sample_rate=RATE, quality=100, shard_mb=1), workers=1)
    assert len(list(out.glob("*.tar"))) >= 3
    return out


@pytest.fixture(scope="module")
def rows(shards: Path, tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    manifest, _ = open_shards(str(shards), tmp_path_factory.mktemp("unused"), 0)
    return usable(select_split(manifest, "train"))


def test_a_set_of_an_earlier_version_opens(shards: Path, tmp_path: Path) -> None:
    """It lacks the columns that came later."""
    old = shutil.copytree(shards, tmp_path / "old")
    table = pq.read_table(old / "manifest.parquet")
    table = table.drop_columns(["audio_reason", "timing"]).replace_schema_metadata({"root": "/media"})
    pq.write_table(table, old / "manifest.parquet")
    manifest, reader = open_shards(str(old), tmp_path / "cache", 1)
    assert reader is not None and manifest["timing"].null_count == len(manifest)
    for policy in ("require", "mask", "zeros"):
        judged = judge(manifest, clip_s=1.0, audio_policy=policy, modalities=["video", "audio"])
        assert set(judged["status"].to_pylist()) == {"ok"}


def opened(root: Path | str, cache: Path, cache_gb: float = 1) -> ShardReader:
    _, reader = open_shards(str(root), cache, cache_gb)
    assert reader is not None
    return reader


def select(reader: ShardReader, rows: pa.Table) -> ShardReader:
    return reader.select(rows, Request(1, 32, RATE))


# ---- the format ----


def test_a_packed_clip_is_what_was_packed() -> None:
    rng = np.random.default_rng(0)
    frames = np.kron(rng.integers(0, 255, (5, 4, 6, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
    waveform = rng.integers(-32768, 32767, 777).astype(np.int16)
    jpegs, times_s = [encode_jpeg(frame, 100) for frame in frames], [0, 0.04, 0.08, 0.2, 0.24]
    facts = {"id": "train/ä.b/…c.d.mp4", "label": None}
    piece = b"".join(pack_clip("000000007", facts, jpegs, times_s, waveform))
    assert len(piece) % 512 == 0
    assert piece == b"".join(pack_clip("000000007", facts, jpegs, times_s, waveform))
    sample = unpack_clip(piece)
    assert sample.facts == facts
    assert (sample.frames["time_s"] == times_s).all()
    stored = [piece[at : at + length] for at, length in zip(sample.frames["at"], sample.frames["bytes"], strict=True)]
    assert stored == jpegs
    assert np.abs(decode_jpegs(stored).astype(int) - frames).mean() < 20  # the colour has half the resolution
    sound = np.frombuffer(piece, "<i2", sample.num_samples, sample.sound_at)
    assert (sound == waveform).all()
    with pytest.raises(ValueError, match=r"expected a member \.json"):
        unpack_clip(piece[512 * (piece.index(b".mjpeg") // 512) :])
    with pytest.raises(ValueError, match="another length than the index says"):
        unpack_clip(piece + bytes(512))


def test_the_webdataset_library_reads_the_shards(shards: Path, manifest: pa.Table) -> None:
    wds = pytest.importorskip("webdataset")
    facts = {row["id"]: row for row in usable(manifest).to_pylist()}
    seen = {}
    tars = [str(tar) for tar in sorted(shards.glob("*.tar"))]
    for sample in wds.WebDataset(tars, shardshuffle=False).decode():
        info = sample["json"]
        row = facts[info["id"]]
        assert (info["split"], info["label"]) == (row["split"], row["label"])
        assert sample["npy"].dtype == np.int16
        assert len(sample["npy"]) / info["sample_rate"] == pytest.approx(row["duration_s"], abs=0.3)
        ends = np.cumsum(info["frame_bytes"])
        assert ends[-1] == len(sample["mjpeg"])
        last = decode_jpegs([sample["mjpeg"][ends[-2] : ends[-1]]])
        assert last.shape == (1, info["height"], info["width"], 3)
        assert len(info["times_s"]) == len(ends)
        seen[info["id"]] = sample["__key__"]
    assert set(seen) == set(facts) and len(set(seen.values())) == len(facts)


# ---- reading ----


@pytest.mark.parametrize("key", [ViewKey(0, "train", 0), ViewKey(21, "label", 3), ViewKey(31, "eval", 2)], ids=str)
def test_a_view_of_a_shard_is_the_view_of_the_file(
    tiny: Tiny, shards: Path, rows: pa.Table, tmp_path: Path, key: ViewKey
) -> None:
    one = ClipDataset(rows, tiny(), FileReader(rows, 30), 3)[key]
    other = ClipDataset(rows, tiny(), select(opened(shards, tmp_path), rows), 3)[key]
    assert one.error is None and other.error is None
    assert other.index == one.index and other.present == one.present and torch.equal(one.draws, other.draws)
    assert one.inputs["video"].shape == other.inputs["video"].shape
    assert (one.inputs["video"].double() - other.inputs["video"].double()).abs().mean() < 5
    assert other.inputs["audio"].dtype == torch.int16
    heard, kept = one.inputs["audio"].double(), other.inputs["audio"].double()
    assert (heard - kept).square().mean() < 0.02 * heard.square().mean()


def test_smaller_frames_and_a_lower_rate_are_made_from_what_is_there(
    shards: Path, rows: pa.Table, tmp_path: Path
) -> None:
    reader = opened(shards, tmp_path)
    frames, waveform, _ = select(reader, rows).read(4, Window(0.5, 1.0), Request(3, 32, RATE))
    lower = reader.select(rows, Request(1, 16, 4000))
    small, slow, _ = lower.read(4, Window(0.5, 1.0), Request(3, 16, 4000))
    assert frames is not None and small is not None and small.shape == (3, 16, 16, 3) and small.dtype == np.uint8
    means = frames.reshape(3, 16, 2, 16, 2, 3).mean((2, 4))
    assert np.abs(small - means).mean() < 6
    assert waveform is not None and slow is not None and slow.shape == (4000,) and slow.dtype == np.int16
    spectrum, other = (np.abs(np.fft.rfft(x.astype(float)))[20:1500] for x in (waveform, slow))
    assert np.corrcoef(spectrum, other)[0, 1] > 0.98
    with pytest.raises(UsageError, match=r"frames of 32 pixels, video.decode_size=48: set video.decode_size=32, or"):
        reader.select(rows, Request(1, 48, RATE))
    with pytest.raises(UsageError, match=r"hold 8000 samples a second, audio.sample_rate=16000: set audio.sample_rate"):
        reader.select(rows, Request(1, 32, 16000))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    """A picture of 96 x 48, the left third red, the middle green, the right blue; and the same upright."""
    root = tmp_path_factory.mktemp("wide") / "media"
    root.mkdir()
    frames = np.zeros((24, 48, 96, 3), np.uint8)
    frames[..., :32, 0] = frames[..., 32:64, 1] = frames[..., 64:, 2] = 230
    encode_clip(root / "0.mp4", frames, None, fps=12, sample_rate=RATE)
    encode_clip(root / "1.mp4", np.ascontiguousarray(frames.transpose(0, 2, 1, 3)), None, fps=12, sample_rate=RATE)
    return root, scan(root, root.parent / "cache", 1)


@pytest.mark.parametrize("kind", ["shards", "files"])
@pytest.mark.parametrize(("aspect", "shape"), [(1, (32, 32)), (1.5, (32, 48)), (0, (32, 64))])
def test_as_much_of_the_long_side_is_stored_as_asked_for(
    wide: tuple[Path, pa.Table], tmp_path: Path, kind: str, aspect: float, shape: tuple[int, int]
) -> None:
    root, rows = wide
    prepare(rows, tmp_path / "out", PrepareSettings(kind, size=32, aspect=aspect, sample_rate=RATE), workers=1)
    rows, shards = open_shards(str(tmp_path / "out"), tmp_path, 0)
    reader = shards.select(rows, Request(1, 32)) if shards else FileReader(rows, 30)
    for row in (0, 1):
        if shards:
            piece = (tmp_path / "out" / tar_name(0)).read_bytes()
            at = int(shards.index["first_frame"][row].as_py())
            record = np.load(tmp_path / "out" / "shard-000000.frames.npy")[at]
            stored = decode_jpegs([piece[record["at"] : record["at"] + record["bytes"]]])[0]
        else:
            stored = decode_recording(tmp_path / "out" / f"{row}.mp4", size=32, sample_rate=RATE).frames[0]
        assert stored.shape[:2] == (shape if row == 0 else shape[::-1])
        for offset in (0.0, 0.5, 1.0):
            found, *_ = reader.read(row, Window(0.5, 1.0, offset), Request(3, 32))
            place = offset if aspect == 0 else 0.5 + (offset - 0.5) * (aspect - 1)
            wanted = dict(num_frames=3, size=32, sample_rate=0)
            expected, _ = decode_clip(root / f"{row}.mp4", 0.5, 1.0, offset=place, **wanted)
            assert found is not None and found.shape == expected.shape
            assert np.abs(found.astype(int) - expected).mean() < 8


def test_a_broken_shard_is_a_fault_of_its_clips(shards: Path, rows: pa.Table, tmp_path: Path, tiny: Tiny) -> None:
    copy = tmp_path / "copy"
    fsspec.filesystem("file").copy(f"{shards}/", f"{copy}/", recursive=True)
    reader = select(opened(copy, tmp_path), rows)
    first, second = np.unique(reader.shards)[:2].tolist()
    (copy / tar_name(first)).write_bytes((shards / tar_name(first)).read_bytes()[:3000])
    (copy / tar_name(second)).unlink()
    dataset = ClipDataset(rows, tiny(), reader)
    errors = {int(s): dataset[ViewKey(n, "train", 0)].error for n, s in enumerate(reader.shards) if n < 32}
    assert errors[first] is not None and errors[first].startswith("corrupt: ")
    assert errors[second] is not None and errors[second].startswith("vanished: ")
    stranger = rows.slice(0, 1).set_column(0, "id", pa.array(["nobody.mp4"]))
    with pytest.raises(MediaError, match="not in the shards"):
        select(reader_of(shards, tmp_path), stranger).read(0, Window(0, 1), Request(1, 32))


def reader_of(shards: Path, tmp_path: Path) -> ShardReader:
    return opened(shards, tmp_path)


def test_a_reader_crosses_process_borders(shards: Path, rows: pa.Table, tmp_path: Path) -> None:
    reader = select(opened(shards, tmp_path), rows)
    window, request = Window(0.3, 1.0, 0.2), Request(2, 32, RATE)
    expected = reader.read(9, window, request)
    found = pickle.loads(pickle.dumps(reader)).read(9, window, request)
    assert all((one == other).all() for one, other in zip(expected[:2], found[:2], strict=True))


def batches(dataset: ClipDataset, keys: list[ViewKey], workers: int) -> list[ClipBatch]:
    size, processes = num_bytes(dataset.config), LoaderProcesses(workers, timeout_s=30, pin_memory=False)
    return list(Loader(copy(dataset), keys, 8, clip_bytes=size, processes=processes))  # type: ignore[arg-type]


@pytest.mark.slow
def test_the_same_clips_whatever_the_workers_and_after_a_resume(
    tiny: Tiny, shards: Path, rows: pa.Table, tmp_path: Path
) -> None:
    reader = select(opened(f"file://{shards}", tmp_path / "cache", 0.004), rows)
    dataset = ClipDataset(rows, tiny(), reader)
    sampler = TrainSampler(len(rows), 8, 0, 0, 1, reader.shards, num_mixed=2)
    sampler.set_epoch(3)
    keys = list(sampler)
    alone = batches(dataset, keys, 0)
    assert sorted(torch.cat([b.index for b in alone]).tolist()) == list(range(32))
    assert all(b.errors == [] for b in alone)
    for workers in (1, 4):
        for one, other in zip(alone, batches(dataset, keys, workers), strict=True):
            assert torch.equal(one.index, other.index) and torch.equal(one.draws, other.draws)
            assert all(torch.equal(one.inputs[name], other.inputs[name]) for name in one.inputs)
            assert other.errors == []
    again = TrainSampler(len(rows), 8, 0, 0, 1, reader.shards, num_mixed=2)
    again.set_epoch(3)
    for one, other in zip(alone[2:], batches(dataset, list(again)[16:], 0), strict=True):
        assert torch.equal(one.index, other.index) and torch.equal(one.inputs["video"], other.inputs["video"])


def test_pictures_of_any_huffman_tables() -> None:
    rng = np.random.default_rng(0)
    pictures = [np.kron(rng.integers(0, 256, (4, 4, 3), np.uint8), np.ones((8, 8, 1), np.uint8)) for _ in range(6)]
    ours = [encode_jpeg(picture, 90) for picture in pictures[:3]]
    others = []
    for picture in pictures[3:]:
        file = BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=90, optimize=True)
        others.append(file.getvalue())
    mixed = [ours[0], others[0], ours[1], others[1], others[2], ours[2]]
    alone = [decode_jpegs([file])[0] for file in mixed]
    assert np.array_equal(decode_jpegs(mixed), np.stack(alone))
    for file, picture in zip(mixed, alone, strict=True):
        assert (
            np.abs(np.asarray(Image.open(BytesIO(file)), int) - picture).mean() < 12
        )  # colours are interpolated otherwise


@pytest.mark.parametrize("remote", [False, True])
def test_ranks_share_the_clips_of_shards(
    tiny: Tiny, shards: Path, manifest: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remote: bool
) -> None:
    root = f"file://{shards}" if remote else str(shards)
    seen: dict[str, list[list[int]]] = {"train": [], "label": [], "eval": []}
    for rank in range(3):
        monkeypatch.setattr("datamodules.loading.views.rank", lambda rank=rank: rank)
        monkeypatch.setattr("datamodules.loading.views.world_size", lambda: 3)
        config = tiny(
            f"data.root={root}", f"data.cache_dir={tmp_path}", "data.shard_cache_gb=0.02", "optim.batch_size=5"
        )
        data = ClipDataModule(config, *prepare_data(config))
        assert data.ids == usable(select_split(manifest, "train"))["id"].to_pylist()
        assert data.steps_per_epoch(3) == len(data.train_dataloader()) == 2
        loaders = {"train": data.train_dataloader(), "label": data.labelling_loader(1)}
        loaders["eval"], _ = data.loaders.evaluation_loader("test", num_views=2)
        for name, loader in loaders.items():
            found = list(loader)
            assert [batch.errors for batch in found] == [[]] * len(found)
            seen[name].append(torch.cat([batch.index for batch in found]).tolist())
    assert [len(rows) for rows in seen["train"]] == [10, 10, 10]
    assert len({row for rows in seen["train"] for row in rows}) == 30  # of 32: two wait
    assert sorted(row for rows in seen["label"] for row in rows) == list(range(32))
    assert sorted(row for rows in seen["eval"] for row in rows) == sorted([*range(16), *range(16)])
    if remote:  # each shard on one rank, as far as may be
        reader = select(opened(root, tmp_path), usable(select_split(manifest, "train")))
        per_rank = [len({int(reader.shards[row]) for row in rows}) for rows in seen["label"]]
        assert sum(per_rank) <= len(np.unique(reader.shards)) + 2


def test_shards_train_as_the_files_do(tiny: Tiny, shards: Path, tmp_path: Path) -> None:
    """The same windows in the same order; a data module over shards resumes and evaluates by the same ids."""
    configs = [tiny("data.cache_gb=0"), tiny(f"data.root={shards}")]
    modules = [ClipDataModule(config, *prepare_data(config)) for config in configs]
    assert modules[0].ids == modules[1].ids and modules[0].labels == modules[1].labels
    for one, other in zip(*(list(module.train_dataloader()) for module in modules), strict=True):
        assert torch.equal(one.index, other.index) and torch.equal(one.draws, other.draws)
        assert (one.inputs["video"].double() - other.inputs["video"].double()).abs().mean() < 5
        assert all(torch.equal(one.present[name], other.present[name]) for name in one.present)
    assert isinstance(open_media(configs[1], modules[1].manifest), ShardReader)  # as cluster_eval opens a finished run


# ---- remote shards ----


def test_remote_shards_are_fetched_once_an_epoch_within_the_limit(
    shards: Path, rows: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(f"{shards}/", "/remote/set/", recursive=True)
    fetched: list[str] = []
    real = type(memory).open

    def counted(self: object, path: str, *args: object, **kwargs: object) -> object:
        fetched.append(Path(path).name)
        return real(self, path, *args, **kwargs)

    try:
        assert is_prepared("memory://remote/set") and not is_prepared("memory://remote")
        largest = max(tar.stat().st_size for tar in shards.glob("*.tar"))
        limit = int(3.2 * largest)
        reader = select(opened("memory://remote/set", tmp_path, limit / 1e9), rows)
        assert reader.remote
        monkeypatch.setattr(type(memory), "open", counted)
        monkeypatch.setattr("datamodules.stores.shards._OPEN_SHARDS", 1)  # so that each use asks the folder
        sampler = TrainSampler(len(rows), 8, 0, 0, 1, reader.shards, num_mixed=1)
        folder = next(tmp_path.glob("shards-*"), None)
        for key in sampler:
            frames, *_ = reader.read(key.row, Window(0.0, 1.0), Request(1, 32))
            assert frames is not None
            folder = folder or next(tmp_path.glob("shards-*"))
            kept = [file.stat().st_size for file in folder.glob("*shard-*")]
            assert sum(kept) <= limit
        tars = [name for name in fetched if name.endswith(".tar")]
        assert sorted(tars) == [tar_name(shard) for shard in np.unique(reader.shards)]
        with pytest.raises(UsageError, match="does not hold two shards"):
            open_shards("memory://remote/set", tmp_path, largest / 1e9)
    finally:
        memory.rm("/remote", recursive=True)


def test_a_download_that_was_killed_leaves_no_reserved_room(shards: Path, rows: pa.Table, tmp_path: Path) -> None:
    limit = 4 * max(tar.stat().st_size for tar in shards.glob("*.tar"))
    reader = select(opened(f"file://{shards}", tmp_path, limit / 1e9), rows)
    reader.read(0, Window(0.0, 1.0), Request(1, 32))
    folder = next(tmp_path.glob("shards-*"))
    (folder / ".shard-000999.tar.tmp").write_bytes(bytes(limit))
    other = next(n for n, shard in enumerate(reader.shards) if shard != reader.shards[0])
    reader.read(other, Window(0.0, 1.0), Request(1, 32))
    assert len(list(folder.glob("shard-*.tar"))) == 2
    assert not list(folder.glob(".*tmp"))


def test_a_connection_that_breaks_is_tried_again_and_then_a_fault(
    shards: Path, rows: pa.Table, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = select(opened(f"file://{shards}", tmp_path), rows)
    local = fsspec.filesystem("file")
    real, attempts = type(local).open, []

    def flaky(self: object, path: str, *args: object, **kwargs: object) -> object:
        attempts.append(path)
        if len(attempts) in broken:
            raise ConnectionError("reset by peer")
        return real(self, path, *args, **kwargs)

    monkeypatch.setattr(type(local), "open", flaky)
    monkeypatch.setattr("datamodules.stores.shards.time.sleep", lambda seconds: None)
    window, request = Window(0.0, 1.0), Request(1, 32)
    broken = range(1, 4)
    with pytest.raises(MediaError, match="reset by peer"):
        reader.read(0, window, request)
    attempts.clear()
    broken = range(1, 3)
    frames, *_ = reader.read(0, window, request)
    assert frames is not None and len(attempts) == 4  # twice in vain, then both files


# ---- picture and sound agree ----


@pytest.fixture(scope="module")
def flash(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pa.Table]:
    """Black but for one white frame at 2 s, silent but for a click then: 25 frames a second."""
    root = tmp_path_factory.mktemp("flash") / "media"
    root.mkdir()
    frames = np.full((100, 48, 64, 3), 10, np.uint8)
    frames[50] = 250
    rng = np.random.default_rng(0)
    waveform = (rng.standard_normal(16_000 * 4) * 30).astype(np.int16)
    waveform[32_000:32_080] = (20_000 * np.sin(np.arange(80) * 1.2)).astype(np.int16)
    encode_clip(root / "flash.mp4", frames, waveform, fps=25, sample_rate=16_000)
    return root, scan(root, root.parent / "cache", 1)


@pytest.mark.parametrize("kind", ["original", "files", "shards"])
@pytest.mark.parametrize("sample_rate", [16_000, 8000])
def test_a_flash_and_a_click_stay_together(
    flash: tuple[Path, pa.Table], tmp_path: Path, kind: str, sample_rate: int
) -> None:
    rows = flash[1]
    if kind == "original":
        reader: FileReader | ShardReader = FileReader(rows, 30)
    else:
        prepare(rows, tmp_path / "out", PrepareSettings(kind, size=48, sample_rate=16_000), workers=1)
        rows, shards = open_shards(str(tmp_path / "out"), tmp_path, 0)
        reader = shards.select(rows, Request(1, 48, sample_rate)) if shards else FileReader(rows, 30)
    for start_s in (0.0, 1.237, 1.98):
        frames, waveform, _ = reader.read(0, Window(start_s, 2.02), Request(101, 48, sample_rate))
        assert frames is not None and waveform is not None
        bright = np.flatnonzero(frames.mean((1, 2, 3)) > 128)
        assert start_s + bright[0] * 0.02 == pytest.approx(2.0, abs=0.04)
        loud = np.flatnonzero(np.abs(waveform.astype(int)) > 6000)
        assert start_s + loud[0] / sample_rate == pytest.approx(2.0, abs=0.01)


def test_the_fetching_process_holds_no_file_open_for_ever(shards: Path, rows: pa.Table, tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        reader = select(opened(f"file://{shards}", tmp_path), rows)
        for row in range(len(rows)):
            reader.read(row, Window(0.0, 1.0), Request(1, 32))
    del reader
    assert len(os.listdir("/proc/self/fd")) <= before + 2


def test_urls_that_hold_nothing_prepared_are_refused_as_they_were_typed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"data\.root=nobody://x//y cannot be read: Protocol not known: nobody"):
        is_prepared("nobody://x//y")
    with pytest.raises(UsageError, match=rf"data\.root=file://{tmp_path}: no shards\.json in it; .*nothing else"):
        open_shards(f"file://{tmp_path}", tmp_path, 1)
    assert not is_prepared(str(tmp_path))
