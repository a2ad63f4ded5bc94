"""Large arrays of what loader processes read lie in one file that they map."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datamodules.clips import ClipDataModule
from datamodules.loading import mapped
from datamodules.loading.mapped import by_pieces, from_pieces, in_file
from datamodules.loading.slots import OrderedBatches
from selavi.config import Config
from selavi.errors import UsageError
from selavi.runs.manifest import SCHEMA

Tiny = Callable[..., Config]


def manifest(num_clips: int, root: Path) -> pa.Table:
    numbers = np.arange(num_clips)
    ids = [f"train/class/{number:07}.mp4" for number in numbers]
    values = {"id": ids, "path": ids, "split": "train", "start_s": 0.0, "duration_s": 10.0, "fps": 30.0, "width": 64}
    values |= {"height": 48, "audio_state": "ok", "audio_s": 10.0, "bytes": numbers, "mtime_ns": numbers + 1}
    values["status"] = "ok"
    columns = [
        pa.array(value, field.type)
        if isinstance(value, list | np.ndarray)
        else pa.repeat(pa.scalar(value, field.type), num_clips)
        for field, value in ((field, values.get(field.name)) for field in SCHEMA)
    ]
    return pa.table(columns, schema=SCHEMA.with_metadata({"root": str(root)}))


@pytest.fixture
def arrays(tmp_path: Path) -> dict[str, object]:
    numbers = np.arange(200_000)
    value = {"numbers": numbers, "texts": pa.array(numbers).cast(pa.string()), "few": np.arange(5), "words": "as it is"}
    return in_file(value, tmp_path)


def test_what_is_sent_to_a_loader_process_does_not_grow_with_the_clips(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny("data.num_workers=1", "data.cache_gb=0", f"data.cache_dir={tmp_path / 'cache'}")
    sent = []
    for num_clips in (30_000, 120_000):
        loader = ClipDataModule(config, manifest(num_clips, tmp_path)).train_dataloader()
        datasets = loader.processes._datasets
        for dataset in datasets:
            dataset.reader = dataset.reader.reader  # without what says which clip is read, which needs a new process
        stream = ForkingPickler.dumps(OrderedBatches(datasets, []))
        sent.append(len(stream))
        for there in pickle.loads(stream).datasets:
            assert there.id_of(num_clips - 1) == f"train/class/{num_clips - 1:07}.mp4"
            assert there.reader.path(7) == tmp_path / "train/class/0000007.mp4"
            assert int(there.reader.mtimes_ns[num_clips - 1]) == num_clips
    assert max(sent) < mapped.ENOUGH  # a copy of the columns has 40 times as much


def test_arrays_in_a_file_are_those_that_were_put_there(arrays: dict[str, object], tmp_path: Path) -> None:
    assert np.array_equal(arrays["numbers"], np.arange(200_000))
    assert arrays["texts"] == pa.array(np.arange(200_000)).cast(pa.string())
    assert arrays["words"] == "as it is" and list(arrays["few"]) == [0, 1, 2, 3, 4]
    stream, pieces = by_pieces(arrays)
    assert len(stream) < 2000 and len(pieces) == 3
    again = from_pieces(stream, pieces)
    assert np.array_equal(again["numbers"], arrays["numbers"]) and again["texts"] == arrays["texts"]
    assert in_file(arrays, tmp_path) is arrays  # nothing is left to be put there
    assert len(list(tmp_path.glob("*.mapped"))) == 1


def test_another_process_maps_the_same_file(arrays: dict[str, object]) -> None:
    stream, pieces = by_pieces(arrays)
    code = "import pickle, sys; from datamodules.loading.mapped import from_pieces; "
    code += "print(from_pieces(*pickle.load(sys.stdin.buffer))['texts'][199_999])"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps((stream, pieces)), capture_output=True)
    assert done.stdout.decode().strip() == "199999", done.stderr.decode()


def test_few_and_small_arrays_stay_where_they_are(tmp_path: Path) -> None:
    value = [np.zeros(1000), "words"]
    assert in_file(value, tmp_path) is value
    assert not list(tmp_path.iterdir())


def test_equal_arrays_share_a_file_and_one_that_nobody_maps_goes(tmp_path: Path) -> None:
    first = in_file(np.arange(200_000), tmp_path)
    again = in_file(np.arange(200_000), tmp_path)
    [kept] = tmp_path.glob("*.mapped")
    assert np.shares_memory(first, again)
    other = in_file(np.arange(300_000), tmp_path)
    assert kept.exists() and len(list(tmp_path.glob("*.mapped"))) == 2
    del first, again
    third = in_file(np.arange(400_000), tmp_path)
    assert not kept.exists() and len(list(tmp_path.glob("*.mapped"))) == 2
    assert len(other) + len(third) == 700_000


@pytest.mark.parametrize("num_bytes", [None, 1000])
def test_a_damaged_file_is_written_again(tmp_path: Path, num_bytes: int | None) -> None:
    in_file(np.arange(200_000), tmp_path)
    [path] = tmp_path.glob("*.mapped")
    content = bytearray(path.read_bytes())
    content[700_000] ^= 1
    path.write_bytes(content[:num_bytes])
    assert np.array_equal(in_file(np.arange(200_000), tmp_path), np.arange(200_000))
    assert [*tmp_path.glob("*.mapped")] == [path]


def test_a_file_that_is_gone_is_told_in_words(arrays: dict[str, object], tmp_path: Path) -> None:
    stream, pieces = by_pieces(arrays)
    arrays.clear()
    for path in tmp_path.glob("*.mapped"):
        path.unlink()
    with pytest.raises(UsageError, match=r"leave data\.cache_dir as it is while a run is under way"):
        from_pieces(stream, pieces)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("no folder")
    value = np.arange(200_000)
    assert in_file(value, tmp_path / "file" / "cache") is value
    assert "GB go to each loader process in place of one file for all" in caplog.text
