from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datamodules.index.new_clips import fix_list, list_clips
from selavi.config import Config
from selavi.errors import UsageError
from selavi.runs.launch import task_of

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
