import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from datamodules import loader as loader_module
from datamodules.clips import ClipDataModule, prepare_data
from datamodules.dataset import ClipDataset, FileReader
from datamodules.loader import Loader, WatchedReader, require_shared_memory
from datamodules.sampling import AllSampler
from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.errors import UsageError
from selavi.media import MediaError

Tiny = Callable[..., Config]


class Treacherous:
    """A reader that hangs or dies at some rows; `mark` lets it die at that row once only."""

    def __init__(
        self, reader: FileReader, hangs: int = -1, dies: tuple[int, ...] = (), mark: Path | None = None
    ) -> None:
        self.reader, self.hangs, self.dies, self.mark = reader, hangs, dies, mark

    def read(self, row: int, *args: float, **kwargs: float):
        if row == self.hangs:
            time.sleep(1000)
        if row in self.dies and not (self.mark and self.mark.exists()):
            if self.mark:
                self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.reader.read(row, *args, **kwargs)


@pytest.fixture
def make(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Loader]:
    """A loader of the 32 training clips in order, eight a batch, in two processes, with a treacherous reader."""
    monkeypatch.setattr(loader_module, "POLL_S", 1.0)
    config = tiny("data.cache_gb=0")
    rows = ClipDataModule(config, *prepare_data(config)).train_rows

    def build(**treason: object) -> Loader:
        reader = Treacherous(FileReader(rows, 1.0), **treason)  # type: ignore[arg-type]
        sampler = AllSampler(len(rows), 0, 1, "label")
        workers = 2 if treason else 0
        dataset = ClipDataset(rows, config, reader)  # type: ignore[arg-type]
        return Loader(dataset, sampler, 8, num_workers=workers, timeout_s=1.0, pin_memory=False)

    return build


def errors(batches: list[ClipBatch]) -> dict[int, str]:
    return {row: reason for batch in batches for row, reason in batch.errors}


def assert_same(batches: list[ClipBatch], others: list[ClipBatch], but: int = -1) -> None:
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(32))
    for batch, other in zip(batches, others, strict=True):
        kept = batch.index != but
        assert torch.equal(batch.inputs["video"][kept], other.inputs["video"][kept])
        assert torch.equal(batch.draws, other.draws)


def test_a_clip_that_hangs_is_given_up_and_the_pass_goes_on(
    make: Callable[..., Loader], caplog: pytest.LogCaptureFixture
) -> None:
    loader = make(hangs=13)
    batches = list(loader)
    assert errors(batches) == {13: "timeout: took more than 3 s in a loader process"}
    assert not batches[1].present["video"][5]
    assert_same(batches, list(make()), but=13)
    told = f"hangs at clip {loader.dataset.ids[13].as_py()}; new loader processes go on at batch 1 of this pass"
    assert told in caplog.text
    assert errors(list(loader)) == errors(batches)  # the next pass does not wait for it again


def test_one_death_is_forgiven(make: Callable[..., Loader], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loader = make(dies=(13,), mark=tmp_path / "mark")
    batches = list(loader)
    assert errors(batches) == {}
    assert_same(batches, list(make()))
    assert f"was killed by SIGKILL at clip {loader.dataset.ids[13].as_py()}" in caplog.text


def test_a_clip_that_kills_twice_is_given_up(make: Callable[..., Loader]) -> None:
    batches = list(make(dies=(13,)))
    assert errors(batches) == {13: "corrupt: the loader process that read it died twice"}
    assert_same(batches, list(make()), but=13)


def test_two_deaths_at_different_clips_end_the_run(make: Callable[..., Loader], tmp_path: Path) -> None:
    loader = make(dies=(3, 20))
    loader.watched.reader = _Once(loader.watched.reader, {3: tmp_path / "3"})
    with pytest.raises(RuntimeError) as caught:
        list(loader)
    told = f"was killed by SIGKILL at clip {loader.dataset.ids[20].as_py()}; it is the second time in this pass"
    assert told in str(caught.value)
    assert "lower data.num_workers" in str(caught.value)


class _Once:
    """Lets a treacherous reader die at some rows once only."""

    def __init__(self, reader: Treacherous, marks: dict[int, Path]) -> None:
        self.reader, self.marks = reader, marks

    def read(self, row: int, *args: float, **kwargs: float):
        if row in self.marks:
            if self.marks[row].exists():
                return self.reader.reader.read(row, *args, **kwargs)
            self.marks[row].touch()
        return self.reader.read(row, *args, **kwargs)


def test_errors_of_the_code_are_not_taken_for_a_lost_process(make: Callable[..., Loader]) -> None:
    loader = make(hangs=-2)
    loader.watched.given_up = {5: ()}  # type: ignore[dict-item]
    with pytest.raises(TypeError, match="MediaError"):
        list(loader)


def test_too_little_shared_memory_is_told_before_a_run(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=16 << 20))
    with pytest.raises(UsageError, match=r"/dev/shm has 16 MB free, but 4 loader processes have up to 80 MB of"):
        require_shared_memory(10 << 20, 4)
    require_shared_memory(10 << 20, 0)
    config = tiny("data.num_workers=4", "video.decode_size=512", "video.num_frames=8")
    manifest, media = prepare_data(tiny())
    with pytest.raises(UsageError, match=r"--shm-size=.*lower data.num_workers or the batch size"):
        ClipDataModule(config, manifest, media)


def test_a_clip_that_fails_is_not_taken_for_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that waits for work after a failure is reading nothing."""
    seen = []

    class Failing:
        def read(self, row: int, *_: float, **__: float):
            seen.append(watched.now[1].tolist())
            raise MediaError(Path("a.mp4"), "corrupt", "why")

    watched = WatchedReader(Failing(), 2)  # type: ignore[arg-type]
    monkeypatch.setattr(loader_module, "get_worker_info", lambda: SimpleNamespace(id=1))
    with pytest.raises(MediaError, match="why"):
        watched.read(7, 0.0, 1.0, num_frames=1, size=16, offset=0.5, sample_rate=0)
    assert seen[0][0] == 7 and seen[0][1] <= time.monotonic()
    assert watched.now[:, 0].tolist() == [-1, -1]
