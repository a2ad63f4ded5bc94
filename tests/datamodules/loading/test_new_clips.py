from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.index.manifest import judge
from datamodules.index.new_clips import fix_list, list_clips
from datamodules.index.scan import scan
from datamodules.loading.dataset import ClipDataset
from datamodules.loading.new_clips import ClipList, ListReader, NewClips, judge_clip
from datamodules.loading.sampling import ViewKey
from selavi.config import Config
from selavi.media import MediaError
from selavi.modalities import MODALITIES
from selavi.runs.manifest import SCHEMA

Tiny = Callable[..., Config]
BOTH = ["video", "audio"]


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


def test_the_reader_crosses_to_another_process_closed(media: Path, tmp_path: Path, tiny: Tiny) -> None:
    import pickle

    fix_list(tmp_path / "out", {"shard_clips": 5}, lambda: list_clips([str(media / "plain.mp4")], tiny(), True))
    reader = ClipList(tmp_path / "out", tiny(), BOTH, 5).reader
    expected = reader.facts(0)
    other = pickle.loads(pickle.dumps(reader))
    assert isinstance(other, ListReader)
    assert other.facts(0) == expected
