from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.index.manifest import SCHEMA, judge
from datamodules.index.new_clips import ClipList, ListReader, NewClips, fix_list, judge_clip, list_clips, task_of
from datamodules.index.scan import scan
from datamodules.loading.dataset import ClipDataset
from datamodules.loading.sampling import ViewKey
from selavi.config import Config
from selavi.errors import UsageError
from selavi.media import MediaError
from selavi.modalities import MODALITIES

Tiny = Callable[..., Config]
BOTH = ["video", "audio"]


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        (None, {}, (0, 1)),
        ("3/8", {"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "2", "RANK": "1", "WORLD_SIZE": "2"}, (3, 8)),
        (None, {"RANK": "2", "WORLD_SIZE": "4"}, (2, 4)),
        (None, {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_COUNT": "8"}, (5, 8)),
        (None, {"SLURM_ARRAY_TASK_ID": "5", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "8"}, (4, 8)),
        (
            None,
            {
                "SLURM_ARRAY_TASK_ID": "14",
                "SLURM_ARRAY_TASK_MIN": "10",
                "SLURM_ARRAY_TASK_STEP": "2",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "RANK": "1",
                "WORLD_SIZE": "4",
            },
            (9, 12),
        ),
    ],
)
def test_the_share_of_a_process(text: str | None, environment: dict[str, str], expected: tuple[int, int]) -> None:
    assert task_of(text, environment) == expected


@pytest.mark.parametrize("text", ["8/8", "1", "-1/8", "0/0", "a/b", "1/8 "])
def test_a_share_that_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="--task must be i/n with 0 <= i < n"):
        task_of(text, {})


def test_an_array_with_gaps_is_refused() -> None:
    """Of --array=7,19 the second would be number 12 of 2, and shards would be left out in silence."""
    environment = {"SLURM_ARRAY_TASK_ID": "19", "SLURM_ARRAY_TASK_MIN": "7", "SLURM_ARRAY_TASK_COUNT": "2"}
    with pytest.raises(UsageError, match="the SLURM array has gaps"):
        task_of(None, environment)


def facts(**changes: Any) -> dict[str, Any]:
    return {"duration_s": 3.0, "width": 64, "audio_state": "ok", "audio_s": 2.5, "audio_reason": None} | changes


@pytest.mark.parametrize(
    ("policy", "modalities", "found", "expected"),
    [
        ("mask", BOTH, {}, (3.0, ["video", "audio"])),
        ("require", BOTH, {}, (2.5, ["video", "audio"])),
        ("mask", BOTH, {"audio_state": "silent"}, (3.0, ["video"])),
        ("require", BOTH, {"audio_state": "absent", "audio_s": 0.0}, (3.0, ["video"])),
        ("require", BOTH, {"audio_s": 0.5}, (3.0, ["video", "audio"])),
        ("mask", BOTH, {"width": 0}, (3.0, ["audio"])),
        ("mask", BOTH, {"width": 0, "audio_state": "silent"}, "silent"),
        ("mask", BOTH, {"width": 0, "audio_state": "absent", "audio_s": 0.0}, "no_audio"),
        ("mask", BOTH, {"duration_s": 0.5}, "too_short"),
        ("mask", BOTH, {"width": 0, "audio_s": 0.5, "duration_s": 0.5}, "too_short"),
        ("mask", ["video"], {}, (3.0, ["video"])),
        ("mask", ["video"], {"width": 0}, "no_video"),
        ("mask", ["audio"], {}, (3.0, ["audio"])),
        ("mask", ["audio"], {"audio_state": "absent", "audio_s": 0.0}, "no_audio"),
        ("mask", ["audio"], {"audio_s": 0.5}, "too_short"),
        ("zeros", ["audio"], {"audio_state": "silent"}, (3.0, [])),
    ],
)
def test_what_of_a_clip_is_used(
    tiny: Tiny, policy: str, modalities: list[str], found: dict[str, Any], expected: tuple[float, list[str]] | str
) -> None:
    config = tiny(f"data.audio_policy={policy}")
    try:
        judged = judge_clip(facts(**found), config, modalities, Path("a.mp4"))
        readable = [name for name in modalities if MODALITIES[name].has(judged.columns)]
        assert (judged.duration_s, readable) == expected
    except MediaError as fault:
        assert fault.reason == expected


@pytest.mark.parametrize("policy", ["mask", "zeros"])
@pytest.mark.parametrize("modalities", [BOTH, ["video"], ["audio"]])
def test_what_evaluation_uses_is_used(
    media: Path, tmp_path: Path, tiny: Tiny, policy: str, modalities: list[str]
) -> None:
    """Of files with a picture, the same as datamodules.index.manifest.judge says."""
    config = tiny(f"data.audio_policy={policy}", f"modalities={modalities}".replace("'", ""))
    found = scan(media, tmp_path / "cache", workers=1)
    judged = judge(found, clip_s=1.0, audio_policy=policy, modalities=modalities)
    for row, status in zip(found.to_pylist(), judged["status"].to_pylist(), strict=True):
        if row["duration_s"] is None:
            continue
        try:
            judge_clip(row, config, modalities, Path(row["path"]))
        except MediaError as fault:
            assert (row["path"], fault.reason) == (row["path"], status)
        else:
            assert (row["path"], status) == (row["path"], "ok")


def test_views_are_those_of_evaluation(demo_set: Path, cache_dir: Path, tmp_path: Path, tiny: Tiny) -> None:
    """Though nothing was probed before; rows are numbered through the shards."""
    config = tiny()
    table = list_clips([str(demo_set / "test")], config, True)
    assert table["duration_s"].null_count == len(table) == 16
    assert table.schema.equals(SCHEMA)
    fix_list(tmp_path / "out", {"shard_clips": 5}, lambda: table)
    clips = ClipList(tmp_path / "out", config, BOTH, 5)
    assert (clips.num_clips, clips.num_shards, clips.sorted_by_id) == (16, 4, True)
    assert [clips.count(shard) for shard in range(4)] == [5, 5, 5, 1]
    new = NewClips(clips.reader, 3)
    known = scan(demo_set / "test", tmp_path / "cache", workers=1)
    expected = ClipDataset(known, config, None, num_views=3)
    for row, view in ((0, 0), (4, 2), (5, 1), (15, 2), (2, 1)):
        one, other = new[ViewKey(row, "eval", view)], expected[ViewKey(row, "eval", view)]
        assert one.index == row and one.error is None and one.present == other.present
        assert torch.equal(one.inputs["video"], other.inputs["video"]) and torch.equal(
            one.inputs["audio"], other.inputs["audio"]
        )
        assert new.id_of(row) == expected.id_of(row)


def test_a_batch_has_clips_of_one_shard(demo_set: Path, tmp_path: Path, tiny: Tiny) -> None:
    config = tiny("labelling.batch_size=3")
    fix_list(tmp_path / "out", {"shard_clips": 5}, lambda: list_clips([str(demo_set / "test")], config, True))
    loader = ClipList(tmp_path / "out", config, BOTH, 5).loader([1, 3], 2, 0, pin_memory=False)
    batches = [batch.index.tolist() for batch in loader]
    assert batches == [[5, 5, 6, 6, 7, 7], [8, 8, 9, 9], [15, 15]]
    assert len(loader) == 3


def test_a_link_that_leads_out_of_a_folder_is_refused_but_one_that_is_named_is_followed(
    media: Path, tmp_path: Path, tiny: Tiny
) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "link.mp4").symlink_to(media / "plain.mp4")
    (folder / "odd name\n[x].mp4").write_bytes(b"")
    table = list_clips([str(folder)], tiny(), True)
    assert dict(zip(table["id"].to_pylist(), table["status"].to_pylist(), strict=True)) == {
        "link.mp4": "refused",
        "odd name\n[x].mp4": None,
    }
    assert list_clips([str(folder)], tiny(), True, allow_links=True)["status"].null_count == 2
    assert list_clips([str(folder / "link.mp4")], tiny(), True)["status"].to_pylist() == [None]


def test_the_list_is_made_once(media: Path, tmp_path: Path, tiny: Tiny) -> None:
    calls = []

    def make() -> Any:
        calls.append(1)
        return list_clips([str(media / "plain.mp4")], tiny(), True)

    for _ in range(2):
        fix_list(tmp_path / "out", {"shard_clips": 5, "heads": [1]}, make)
    assert calls == [1]
    with pytest.raises(UsageError, match=r"heads was \[1\], now \[0\]"):
        fix_list(tmp_path / "out", {"shard_clips": 5, "heads": [0]}, make)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").touch()
    with pytest.raises(UsageError, match="it holds precious"):
        fix_list(tmp_path / "other", {"shard_clips": 5}, make)


def test_the_reader_crosses_to_another_process_closed(media: Path, tmp_path: Path, tiny: Tiny) -> None:
    import pickle

    fix_list(tmp_path / "out", {"shard_clips": 5}, lambda: list_clips([str(media / "plain.mp4")], tiny(), True))
    reader = ClipList(tmp_path / "out", tiny(), BOTH, 5).reader
    expected = reader.facts(0)
    other = pickle.loads(pickle.dumps(reader))
    assert isinstance(other, ListReader)
    assert other.facts(0) == expected


def test_links_that_lead_nowhere_are_rows_or_refused(
    media: Path, tmp_path: Path, tiny: Tiny, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    (folder / "1.mp4").write_bytes((media / "plain.mp4").read_bytes())
    (folder / "loop").symlink_to("loop")
    (folder / "loop.mp4").symlink_to("loop.mp4")
    (folder / "below.wav").symlink_to("1.mp4/x")
    table = list_clips([str(folder)], tiny(), True)
    assert dict(zip(table["id"].to_pylist(), table["status"].to_pylist(), strict=True)) == {
        "1.mp4": None,
        "below.wav": "vanished",
        "loop.mp4": "vanished",
    }
    assert "1 folders or links in" in caplog.text
    for name, reason in (
        ("loop", "Too many levels"),
        ("1.mp4/x", "Not a directory"),
        ("y" * 300, "File name too long"),
    ):
        with pytest.raises(UsageError, match=f"no such file or folder .{reason}"):
            list_clips([str(folder / name)], tiny(), True)


def test_folders_of_new_clips_are_read_by_the_same_rule(tmp_path: Path, tiny: Tiny) -> None:
    for path in ("car/1.mp4", "Train/2.mp4", "bus/3.mp4"):
        (tmp_path / "new" / path).parent.mkdir(parents=True)
        (tmp_path / "new" / path).write_bytes(b"x")
    assert list_clips([str(tmp_path / "new")], tiny(), True)["label"].to_pylist() == ["Train", "bus", "car"]
    files = [str(file) for file in (tmp_path / "new").rglob("*.mp4")]
    assert list_clips(files, tiny(), True)["label"].to_pylist() == ["Train", "bus", "car"]
    assert list_clips(files, tiny(), True, layout="flat")["label"].null_count == 3
