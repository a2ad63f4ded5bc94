import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from datamodules.clips import ClipDataModule, prepare_data
from datamodules.loading import workers as workers_module
from datamodules.loading.dataset import ClipDataset
from datamodules.loading.loader import Loader
from datamodules.loading.sampling import AllSampler
from datamodules.loading.shared_memory import require_shared_memory
from datamodules.loading.workers import LoaderProcesses, WatchedReader
from datamodules.stores.files import FileReader
from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.errors import UsageError
from selavi.media import MediaError
from selavi.modalities import Request, Window, num_bytes
from selavi.runs.checkpoint import read_checkpoint
from selavi.runs.folder import RunFolder
from tests.datamodules.treacherous import Once, Treacherous, unsendable

Tiny = Callable[..., Config]


@pytest.fixture
def make(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Loader]:
    """A loader of the 32 training clips in order, eight a batch, in two processes, with a treacherous reader."""
    monkeypatch.setattr(workers_module, "POLL_S", 1.0)
    monkeypatch.setattr(workers_module, "WALL_FACTOR", 1)
    config = tiny("data.cache_gb=0")
    rows = ClipDataModule(config, *prepare_data(config)).train_rows

    def build(**treason: object) -> Loader:
        reader = Treacherous(FileReader(rows, 1.0), **treason)  # type: ignore[arg-type]
        sampler = AllSampler(len(rows), 0, 1, "label")
        dataset = ClipDataset(rows, config, reader)  # type: ignore[arg-type]
        processes = LoaderProcesses(2 if treason else 0, timeout_s=1.0, pin_memory=False)
        return Loader(dataset, sampler, 8, clip_bytes=num_bytes(config), processes=processes)

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
    told = f"hangs at clip {loader.dataset.id_of(13)}; new loader processes go on at batch 1 of this pass"
    assert told in caplog.text
    assert errors(list(loader)) == errors(batches)  # the next pass does not wait for it again


@pytest.mark.slow
def test_a_clip_that_takes_too_much_of_the_processor_is_given_up(
    make: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "WALL_FACTOR", 1000)
    assert list(errors(list(make(hangs=13, busy=True)))) == [13]


def test_a_clip_that_waits_for_the_processor_is_not(
    make: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time in which a process does not run, because the machine is busy, is not its own."""
    loader = make(hangs=-2)
    loader.processes.now[:] = torch.tensor([5.0, time.monotonic() - 60, 0.0], dtype=torch.float64)
    processes = [SimpleNamespace(pid=os.getpid(), is_alive=lambda: True, exitcode=None)] * 2
    monkeypatch.setattr(loader.processes, "_processes", lambda: processes)
    loader.processes.now[:, 2] = time.process_time()
    assert [lost.row for lost in loader.processes._lost()] == [5, 5]
    monkeypatch.setattr(workers_module, "WALL_FACTOR", 1000)
    assert loader.processes._lost() == []


def test_one_death_is_forgiven(make: Callable[..., Loader], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loader = make(dies=(13,), mark=tmp_path / "mark")
    batches = list(loader)
    assert errors(batches) == {}
    assert_same(batches, list(make()))
    assert f"was killed by SIGKILL at clip {loader.dataset.id_of(13)}" in caplog.text


def test_a_death_between_two_passes_is_forgiven(make: Callable[..., Loader], caplog: pytest.LogCaptureFixture) -> None:
    """The next pass waits for the processes of the one before, and is told there that one is gone."""
    loader = make(hangs=-2)
    first = list(loader)
    for process in loader.processes._processes():
        process.kill()
        process.join()
    assert_same(list(loader), first)
    assert "loader process 0" in caplog.text and "new loader processes go on at batch 0 of this pass" in caplog.text


@pytest.mark.slow
def test_processes_that_are_busy_with_an_abandoned_pass_do_not_end_the_next(
    make: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "WALL_FACTOR", 1000)
    loader = make(hangs=29)
    next(iter(loader))
    time.sleep(0.5)  # until a process is at clip 29
    monkeypatch.setattr(loader.dataset.reader.reader, "hangs", -2)
    assert_same(list(loader), list(make()))


@pytest.mark.slow
def test_a_clip_that_kills_twice_is_given_up(make: Callable[..., Loader]) -> None:
    batches = list(make(dies=(13,)))
    assert errors(batches) == {13: "corrupt: the loader process that read it died twice"}
    assert_same(batches, list(make()), but=13)


@pytest.mark.slow
def test_two_deaths_at_different_clips_end_the_run(make: Callable[..., Loader], tmp_path: Path) -> None:
    loader = make(dies=(3, 20))
    loader.dataset.reader.reader = Once(loader.dataset.reader.reader, {3: tmp_path / "3"})
    with pytest.raises(RuntimeError) as caught:
        list(loader)
    told = f"was killed by SIGKILL at clip {loader.dataset.id_of(20)}; it is the second time in this pass"
    assert told in str(caught.value)
    assert "lower data.num_workers" in str(caught.value)


def test_errors_of_the_code_are_not_taken_for_a_lost_process(make: Callable[..., Loader]) -> None:
    loader = make(hangs=-2)
    loader.processes.given_up[5] = ()  # type: ignore[assignment]
    with pytest.raises(TypeError, match="MediaError"):
        list(loader)


def test_too_little_shared_memory_is_told_before_a_run(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=16 << 20))
    with pytest.raises(UsageError, match=r"/dev/shm has 16 MB free, but 4 loader processes have up to 100 MB of"):
        require_shared_memory(10 << 20, 4)
    require_shared_memory(10 << 20, 0)
    config = tiny("data.num_workers=4", "video.decode_size=512", "video.num_frames=8")
    manifest, media = prepare_data(tiny())
    with pytest.raises(UsageError, match=r"--shm-size=.*lower data.num_workers or the batch size"):
        ClipDataModule(config, manifest, media)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=64 << 20))
    config = tiny("data.num_workers=4", "trainer.devices=1", "video.decode_size=128")
    ClipDataModule(config, manifest, media)
    config.trainer.devices = 64
    with pytest.raises(UsageError, match="4 loader processes of each of 64 processes"):
        ClipDataModule(config, manifest, media)


def test_a_batch_that_gets_lost_ends_the_run(make: Callable[..., Loader], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers_module, "IDLE_S", 2.0)
    monkeypatch.setattr(workers_module, "_as_it_is", unsendable)
    with pytest.raises(RuntimeError, match="batch 0 of this pass did not arrive though all loader processes wait"):
        list(make(dies=()))


def in_little_shared_memory(size: str, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command with a /dev/shm of its own; skip where that is not permitted."""
    if not shutil.which("unshare"):
        pytest.skip("no unshare command")
    shell = f"mount -t tmpfs -o size={size} tmpfs /dev/shm && exec {shlex.join(command)}"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(["unshare", "-m", "sh", "-c", shell], capture_output=True, text=True, env=environment)
    if re.search("unshare: |mount: |mount failed|permission denied", done.stderr, re.IGNORECASE):
        pytest.skip(f"no mount of its own: {done.stderr[:200]}")
    return done


@pytest.mark.slow
@pytest.mark.parametrize(("decode_size", "code"), [(224, 0), (256, 2)])
def test_a_run_in_16_mb_of_shared_memory(
    repository: Path, tiny_yaml: Path, tmp_path: Path, decode_size: int, code: int
) -> None:
    """Fault test 10: batches that just fit train, others are refused before anything begins."""
    settings = ["data.num_workers=1", "data.cache_gb=0", f"video.decode_size={decode_size}", "trainer.max_epochs=1"]
    settings += ["labelling.batch_size=4", "optim.batch_size=8", f"run_dir={tmp_path / 'run'}"]
    assert 3 * 2 * 224**2 * (8 + 4) * 4 < 16 << 20 < 3 * 2 * 256**2 * (8 + 4) * 4
    train = str(repository / "tools" / "train.py")
    done = in_little_shared_memory("16m", sys.executable, train, "--config", str(tiny_yaml), *settings)
    assert done.returncode == code, done.stderr
    assert ("/dev/shm has 16 MB free, but 1 loader processes have up to 19 MB of batches there" in done.stderr) == (
        code == 2
    )
    assert (tmp_path / "run").exists() == (code == 0)


def loader_processes(pid: int) -> list[int]:
    """Children of the children of a process: its own are the fork server and the resource tracker."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(entry.parent.name)] = int(entry.read_text().rpartition(")")[2].split()[1])
    return [child for child, parent in parents.items() if parents.get(parent) == pid]


@pytest.mark.slow
def test_a_run_whose_loader_processes_are_killed_twice_ends_with_its_checkpoint(
    repository: Path, tiny_yaml: Path, tmp_path: Path
) -> None:
    """Fault test 9, the whole program."""
    folder = tmp_path / "run"
    command = [sys.executable, str(repository / "tools" / "train.py"), "--config", str(tiny_yaml)]
    settings = ["data.num_workers=1", "data.cache_gb=0", "trainer.max_epochs=500", f"run_dir={folder}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (tmp_path / "error").open("w") as file:  # a pipe would stay open as long as any of its processes
        process = subprocess.Popen([*command, *settings], stderr=file, env=environment)
    try:
        give_up = time.monotonic() + 200
        while not RunFolder(folder).last_checkpoint.exists() and process.poll() is None and time.monotonic() < give_up:
            time.sleep(0.05)
        while process.poll() is None and time.monotonic() < give_up:
            for pid in loader_processes(process.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)
        code = process.wait(60)
    finally:
        process.kill()
    error = (tmp_path / "error").read_text()
    assert code == 1, error
    assert re.search(
        r"loader process 0 \(pid \d+\) was killed by SIGKILL.*; new loader processes go on at batch", error
    )
    assert re.search(r"was killed by SIGKILL.*; it is the second time in this pass, at batch \d+ \(train/", error)
    assert read_checkpoint(RunFolder(folder).last_checkpoint)["label_bank"]["num_labellings"] >= 1


@pytest.mark.slow
def test_no_loader_process_outlives_its_run(repository: Path, tiny_yaml: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(repository / "tools" / "train.py"), "--config", str(tiny_yaml)]
    settings = ["data.num_workers=2", "data.cache_gb=0", "trainer.max_epochs=500", f"run_dir={tmp_path / 'run'}"]
    process = subprocess.Popen([*command, *settings], env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        give_up = time.monotonic() + 200
        while not RunFolder(tmp_path / "run").last_checkpoint.exists() and time.monotonic() < give_up:
            assert process.poll() is None
            time.sleep(0.05)
        helpers = loader_processes(process.pid)
    finally:
        process.kill()
    process.wait()
    assert len(helpers) >= 2
    while any(Path(f"/proc/{pid}").exists() for pid in helpers) and time.monotonic() < give_up:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{pid}").exists() for pid in helpers)


def test_a_clip_that_fails_is_not_taken_for_one_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that waits for work after a failure is reading nothing."""
    seen = []

    class Failing:
        def read(self, row: int, *_: object):
            seen.append(watched.now[1].tolist())
            raise MediaError(Path("a.mp4"), "corrupt", "why")

    watched = WatchedReader(Failing(), torch.full((2, 3), -1.0, dtype=torch.float64), {})  # type: ignore[arg-type]
    monkeypatch.setattr(workers_module, "get_worker_info", lambda: SimpleNamespace(id=1))
    with pytest.raises(MediaError, match="why"):
        watched.read(7, Window(0.0, 1.0), Request(1, 16))
    assert seen[0][0] == 7 and seen[0][1] <= time.monotonic()
    assert watched.now[:, 0].tolist() == [-1, -1]
