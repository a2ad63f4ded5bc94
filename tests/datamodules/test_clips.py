import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.clips import ClipDataModule, check_bad_fraction, prepare_data
from datamodules.stores.opening import open_media
from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.errors import DataError, UsageError
from selavi.media import encode_clip

Tiny = Callable[..., Config]


@pytest.fixture
def data(tiny: Tiny) -> ClipDataModule:
    config = tiny()
    return ClipDataModule(config, *prepare_data(config))


def test_training_clips_come_in_whole_batches(data: ClipDataModule) -> None:
    batches: list[ClipBatch] = list(data.train_dataloader())
    assert data.steps_per_epoch(1) == len(batches) == 4
    assert all(batch.inputs["video"].shape == (8, 2, 32, 32, 3) for batch in batches)
    rows = torch.cat([batch.index for batch in batches])
    assert sorted(rows.tolist()) == list(range(32))


def test_ids_and_labels_are_those_of_the_training_clips(data: ClipDataModule) -> None:
    assert len(data.ids) == 32
    assert all(clip_id.startswith("train/") for clip_id in data.ids)
    assert data.ids == sorted(data.ids)
    assert data.labels is not None and data.labels.to_pylist() == [clip_id.split("/")[1] for clip_id in data.ids]


def test_a_clip_without_a_label_means_no_labels(data: ClipDataModule, tiny: Tiny) -> None:
    rows = data.manifest.to_pylist()
    rows[3]["label"] = None
    manifest = data.manifest.from_pylist(rows, schema=data.manifest.schema)
    bare = ClipDataModule(tiny("data.train_split=train"), manifest)
    train_labels = bare.train_rows["label"].to_pylist()
    assert (bare.labels is None) == (None in train_labels)
    for row in rows:
        row["label"] = None
    assert ClipDataModule(tiny(), data.manifest.from_pylist(rows, schema=data.manifest.schema)).labels is None


def test_a_labelling_pass_is_every_clip_in_order_and_another_view_each_time(data: ClipDataModule) -> None:
    first, again, second = ([*data.labelling_loader(number)] for number in (0, 0, 1))
    assert torch.cat([batch.index for batch in first]).tolist() == list(range(32))
    assert torch.equal(first[0].draws, again[0].draws)
    assert not torch.equal(first[0].draws, second[0].draws)


def test_evaluation_gives_the_views_of_a_clip_in_a_row(data: ClipDataModule) -> None:
    loader, rows = data.loaders.evaluation_loader("test", num_views=3)
    batches = list(loader)
    assert len(rows) == 16
    assert torch.cat([batch.index for batch in batches]).tolist() == [n for n in range(16) for _ in range(3)]
    assert all(len(batch.index) % 3 == 0 for batch in batches)
    with pytest.raises(UsageError, match=r"no file in split 'val'.* found: test \(16 files\), train \(32 files\)"):
        data.loaders.evaluation_loader("val")


def test_a_step_larger_than_the_set_is_refused(data: ClipDataModule) -> None:
    assert data.steps_per_epoch(4) == 1
    with pytest.raises(UsageError, match=r"a step takes 40 clips, but .* has only 32 usable .*lower optim.batch_size"):
        data.steps_per_epoch(5)


def test_workers_decode_what_the_main_process_decodes(tiny: Tiny) -> None:
    """Without a cache, so that the workers really decode."""
    tables = []
    for workers in (0, 2):
        config = tiny(f"data.num_workers={workers}", "data.cache_gb=0")
        data = ClipDataModule(config, *prepare_data(config))
        assert data.media is None
        tables.append([*data.train_dataloader()])
    for alone, helped in zip(*tables, strict=True):
        assert torch.equal(alone.index, helped.index)
        assert torch.equal(alone.inputs["video"], helped.inputs["video"])
        assert torch.equal(alone.inputs["audio"], helped.inputs["audio"])
        assert torch.equal(alone.draws, helped.draws)


def test_decoded_media_are_kept_where_they_fit(tiny: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    config = tiny()
    manifest, cache = prepare_data(config)
    assert cache is not None
    found = open_media(config, manifest)
    assert found is not None and found.folder == cache.folder
    small = tiny("data.cache_gb=0.0001")
    assert prepare_data(small)[1] is None
    assert "decoding each clip anew" in caplog.text
    assert open_media(small, manifest) is None
    caplog.clear()
    assert prepare_data(tiny("data.cache_gb=0"))[1] is None
    assert "decoding" not in caplog.text
    assert "splits: train 32, test 16; 8 classes" in caplog.text  # told by every training


# ---- what is refused ----


@pytest.fixture
def own(tmp_path: Path, media: Path, tiny: Tiny) -> Callable[..., Config]:
    """A folder of copies of odd media, and settings for it."""

    def make(names: list[str], *overrides: str) -> Config:
        root = tmp_path / "own"
        for number, name in enumerate(names):
            target = root / "train" / "square" / f"{number:02d}_{name}.mp4"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(media / f"{name}.mp4", target)
        return tiny(f"data.root={root}", f"data.cache_dir={tmp_path / 'cache'}", "heads.num_clusters=2", *overrides)

    return make


@pytest.mark.parametrize("cache_gb", [0, 1])
def test_bad_files_are_skipped_within_the_budget(own: Callable[..., Config], cache_gb: int) -> None:
    names = ["plain", "mute", "empty", "short_sound", "text"]
    config = own(names, f"data.cache_gb={cache_gb}", "data.max_bad_fraction=0.4")
    manifest, _ = prepare_data(config)
    assert manifest["status"].to_pylist() == ["ok", "ok", "empty", "ok", "not_media"]
    kept = [f"train/square/{name}.mp4" for name in ("00_plain", "01_mute", "03_short_sound")]
    assert ClipDataModule(config, manifest).ids == kept


def test_more_bad_files_than_the_budget_stop_the_run(own: Callable[..., Config]) -> None:
    with pytest.raises(DataError) as caught:
        prepare_data(own(["plain", "mute", "empty", "short_sound", "text"], "data.max_bad_fraction=0.3"))
    message = str(caught.value)
    assert "2 of 5 files cannot be used, data.max_bad_fraction=0.3 allows 1" in message
    assert "1 empty (such as train/square/02_empty.mp4); 1 not_media (such as train/square/04_text.mp4)" in message


def test_a_file_shorter_than_a_clip_is_too_short(own: Callable[..., Config], tmp_path: Path) -> None:
    config = own(["plain", "plain", "plain"], "data.max_bad_fraction=0.5")
    short = np.zeros((6, 32, 32, 3), np.uint8)
    encode_clip(tmp_path / "own" / "train" / "square" / "short.mp4", short, None, fps=12, sample_rate=8000)
    manifest, _ = prepare_data(config)
    row = manifest.to_pylist()[-1]
    assert (row["status"], row["reason"]) == ("too_short", "0.50 s, data.clip_s=1.0")


def test_a_file_that_only_fails_when_decoded_is_found_by_the_cache(own: Callable[..., Config], tmp_path: Path) -> None:
    prepare_data(own(["plain"] * 4, "data.cache_gb=0"))
    path = tmp_path / "own" / "train" / "square" / "02_plain.mp4"
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # the scan has no reason to look again
    manifest, cache = prepare_data(own([], "data.max_bad_fraction=0.25"))
    assert cache is not None
    assert manifest["status"].to_pylist() == ["ok", "ok", "not_media", "ok"]
    with pytest.raises(DataError, match="1 of 4 files cannot be used"):
        prepare_data(own([], "data.max_bad_fraction=0.2"))


@pytest.mark.parametrize("name", ["mute", "silent"])
def test_no_sound_in_any_file_is_refused(own: Callable[..., Config], name: str) -> None:
    with pytest.raises(UsageError, match=r"none of the 3 training files .* has sound; .*modalities=\[video\]"):
        prepare_data(own([name] * 3))
    with pytest.raises(UsageError, match=r"none of the 3 training files .* has sound"):
        prepare_data(own([], "data.audio_policy=require"))
    prepare_data(own([name] * 3, "modalities=[video]"))


@pytest.mark.parametrize("policy", ["require", "mask", "zeros"])
def test_the_audio_policy_says_which_clips_are_used(own: Callable[..., Config], policy: str) -> None:
    config = own(["plain", "mute", "silent", "plain", "plain"], f"data.audio_policy={policy}")
    manifest, media = prepare_data(config)  # what the policy leaves out is no bad file
    left_out = {"require": {1: "no_audio", 2: "silent"}}.get(policy, {})
    assert manifest["status"].to_pylist() == [left_out.get(row, "ok") for row in range(5)]
    assert len(ClipDataModule(config, manifest, media).ids) == 5 - len(left_out)


@pytest.mark.parametrize("allowed", [0.5, 0.2])
def test_a_file_that_changes_after_the_scan_is_counted(
    own: Callable[..., Config], tmp_path: Path, allowed: float
) -> None:
    """Fault test 11: the second epoch finds one file gone and one replaced."""
    config = own(["plain"] * 4, "data.cache_gb=0", "optim.batch_size=4", f"data.max_bad_fraction={allowed}")
    data = ClipDataModule(config, *prepare_data(config))
    (batch,) = data.train_dataloader()
    assert batch.errors == []
    folder = tmp_path / "own" / "train" / "square"
    (folder / "00_plain.mp4").unlink()
    (folder / "02_plain.mp4").write_bytes((folder / "01_plain.mp4").read_bytes() + b"more")
    (batch,) = data.train_dataloader()
    assert sorted((row, reason.split(":")[0]) for row, reason in batch.errors) == [(0, "vanished"), (2, "changed")]
    manifest, _ = prepare_data(config)  # a new run probes what has changed, and does not miss what is gone
    assert manifest["id"].to_pylist() == [f"train/square/0{n}_plain.mp4" for n in (1, 2, 3)]
    assert manifest["bytes"][1].as_py() == (folder / "02_plain.mp4").stat().st_size


def test_failures_of_decoding_ahead_are_found_again_without_decoding(
    own: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = own(["plain"] * 4, "data.max_bad_fraction=0.5")
    path = tmp_path / "own" / "train" / "square" / "02_plain.mp4"
    prepare_data(own([], "data.cache_gb=0"))
    stat = path.stat()
    path.write_bytes(bytes(stat.st_size))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    manifest, media = prepare_data(config)
    assert manifest["status"].to_pylist() == ["ok", "ok", "not_media", "ok"]
    monkeypatch.setattr("datamodules.stores.cache._Work.decode_all", lambda *_: pytest.fail("decoded again"))
    again = open_media(config, manifest)  # as after a run, from its own manifest
    assert again is not None and again.folder == media.folder
    assert prepare_data(own([], "data.max_bad_fraction=0.5", "data.clip_s=2"))[1].folder == media.folder


def test_a_list_chooses_clips_and_says_so(
    own: Callable[..., Config], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "list.csv").write_text(
        "path,label,split\ntrain/square/00_plain.mp4,a,train\ntrain/square/02_plain.mp4,b,train\nno.mp4,b,train\n"
    )
    config = own(["plain"] * 4, f"data.list={tmp_path / 'list.csv'}")
    data = ClipDataModule(config, *prepare_data(config))
    assert len(data.ids) == 2 and data.labels is not None and data.labels.to_pylist() == ["a", "b"]
    assert "using 2 of 3 clips of list.csv: 1 without a file (such as no.mp4)" in caplog.text


def test_more_clusters_than_clips_are_refused(own: Callable[..., Config]) -> None:
    with pytest.raises(UsageError, match=r"num_clusters=4, but there are only 3 usable .*: lower heads.num_clusters"):
        prepare_data(own(["plain"] * 3, "heads.num_clusters=4"))
    prepare_data(own(["plain"] * 3, "heads.num_clusters=3"))


def test_a_set_without_the_training_split_is_refused(tiny: Tiny) -> None:
    with pytest.raises(UsageError, match=r"no file in split 'dev' .*; found: test \(16 files\), train \(32 files\)"):
        prepare_data(tiny("data.train_split=dev"))


def test_the_budget_is_a_share_of_all_files(own: Callable[..., Config]) -> None:
    manifest, _ = prepare_data(own(["plain", "plain", "plain", "empty"], "data.max_bad_fraction=0.25"))
    check_bad_fraction(manifest, 0.25)
    with pytest.raises(DataError, match="1 of 4"):
        check_bad_fraction(manifest, 0.24)


def test_the_demo_set_is_generated_once(tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.clips.DEMO_CLIPS_PER_CLASS", {"train": 1, "test": 1})
    config = tiny("data.demo=true", f"data.root={tmp_path / 'demo'}", f"data.cache_dir={tmp_path / 'cache'}")
    manifest, _ = prepare_data(config)
    assert len(manifest) == 16
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*.mp4")}
    prepare_data(config)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "demo").rglob("*.mp4")} == times
