import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from datamodules import processes
from datamodules.processes import Failure, own_memory, run_jobs
from selavi.media import MediaError

LIMITS = {"deadline_s": 20.0, "memory_bytes": 1 << 30}


def work(job: object) -> object:
    """What a job does when a worker gets it."""
    match job:
        case "hang":
            time.sleep(1000)
        case "spin":
            while True:
                pass
        case ["slow", *_]:  # as on a machine that is busy with other things
            time.sleep(3)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "greedy":
            return len(bytearray(3 << 30))
        case "empty":
            raise MediaError(Path("a.mp4"), "empty", "0 bytes")
        case "bug":
            raise KeyError("a bug")
        case "odd":
            return lambda: "cannot be pickled"
        case ["once", path]:  # crashes the first time
            if not Path(path).exists():
                Path(path).touch()
                os.kill(os.getpid(), signal.SIGKILL)
    return job


def pid_of(job: int) -> int:
    time.sleep(0.05)
    return os.getpid()


@pytest.mark.parametrize("ordered", [False, True])
def test_bad_jobs_cost_themselves_only(ordered: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "WALL_FACTOR", 4)
    once = ["once", str(tmp_path / "mark")]
    jobs = ["a", "hang", "spin", ["slow"], "b", "crash", "greedy", "c", "empty", once, "d", *range(20)]
    results = list(run_jobs(work, jobs, workers=2, ordered=ordered, **LIMITS | {"deadline_s": 1.5}))
    assert (results == sorted(results, key=lambda result: result[0])) or not ordered
    found = dict(results)
    assert len(found) == len(results) == len(jobs)
    bad = {str(jobs[number]): result for number, result in found.items() if isinstance(result, Failure)}
    assert bad == {
        "hang": Failure("timeout", "took more than 6 s"),
        "spin": Failure("timeout", "took more than 1.5 s of processor time"),
        "crash": Failure("corrupt", "the process that read it died twice (SIGSEGV)"),
        "greedy": Failure("corrupt", "reading it takes more than 1024 MB of memory"),
        "empty": Failure("empty", "0 bytes"),
    }
    assert found[jobs.index(once)] == once  # alone it went well
    assert [found[number] for number in range(len(jobs) - 20, len(jobs))] == list(range(20))


def test_as_many_processes_as_wanted_share_the_jobs() -> None:
    pids = [pid for _, pid in run_jobs(pid_of, range(12), workers=3, **LIMITS)]
    assert len(pids) == 12
    assert len(set(pids)) == 3
    assert os.getpid() not in pids


def test_jobs_are_read_as_they_are_needed() -> None:
    read: list[int] = []

    def jobs() -> Iterator[int]:
        for number in range(1000):
            read.append(number)
            yield number

    results = run_jobs(abs, jobs(), workers=1, ordered=True, **LIMITS)
    assert next(results) == (0, 0)
    assert len(read) < 10
    results.close()  # type: ignore[attr-defined]


def test_other_exceptions_end_it_with_the_workers_traceback() -> None:
    with pytest.raises(KeyError, match="a bug") as caught:
        list(run_jobs(work, ["bug"], **LIMITS))
    assert "in work" in caught.value.__notes__[0]
    with pytest.raises(RuntimeError, match="pickle"):
        list(run_jobs(work, ["odd"], **LIMITS))


def test_no_jobs_no_processes() -> None:
    assert list(run_jobs(work, [], **LIMITS)) == []


def exits(job: object) -> None:
    os._exit(3)


def test_a_worker_that_exits_is_told_with_its_code() -> None:
    results = list(run_jobs(exits, [1], workers=1, **LIMITS))
    assert results == [(0, Failure("corrupt", "the process that read it died twice (exit code 3)"))]


PARENT = """
import sys, time
from functools import partial
from datamodules.processes import run_jobs
from tests.datamodules.test_processes import leave_pid

if __name__ == "__main__":
    try:
        for _ in run_jobs(partial(leave_pid, sys.argv[1]), range(2), workers=2, deadline_s=3, memory_bytes=1 << 30):
            pass
    except KeyboardInterrupt:
        sys.exit(130)
"""


SCRIPT = """
import sys
from pathlib import Path
from datamodules.index.scan import scan
from datamodules.synthetic import generate
print("the script runs")
folder = Path(sys.argv[1])
generate(folder / "media", clips_per_class={"train": 1}, workers=2, progress=False)
print(len(scan(folder / "media", folder / "cache", 2)), "files")
"""


def test_a_script_without_a_main_guard_is_not_run_by_its_workers(tmp_path: Path, repository: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": str(repository)}
    command = [sys.executable, str(script), str(tmp_path)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (0, "the script runs\n8 files\n"), ended.stderr


def leave_pid(folder: str, job: int) -> None:
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(1000)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(number: signal.Signals, tmp_path: Path, repository: Path) -> None:
    """Each hangs in a job when its parent is interrupted, as by Ctrl-C (the whole group), or killed."""
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    environment = os.environ | {"PYTHONPATH": str(repository)}
    parent = subprocess.Popen(
        command, cwd=repository, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
    if number == signal.SIGINT:
        os.killpg(parent.pid, number)
    else:
        parent.kill()
    assert parent.wait(30) == (130 if number == signal.SIGINT else -9)
    pids = [int(path.name) for path in tmp_path.iterdir()]
    wait_for(lambda: not any(map(alive, pids)))
    assert parent.stderr is not None and parent.stderr.read() == ""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def wait_for(condition) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise AssertionError("it did not happen in a minute")


def test_a_partial_is_a_function() -> None:
    assert dict(run_jobs(partial(int, base=2), ["11", "101"], **LIMITS)) == {0: 3, 1: 5}


def test_a_worker_that_probes_imports_little(repository: Path) -> None:
    code = "import sys, datamodules.index.probing, datamodules.processes; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=True)
    assert {"torch", "pyarrow", "pytorch_lightning", "omegaconf"}.isdisjoint(done.stdout.split())


def test_the_memory_of_a_process_is_its_own() -> None:
    before = own_memory(os.getpid())
    held = bytearray(b"x" * 200_000_000)
    assert own_memory(os.getpid()) > max(before, 200_000_000)
    assert len(held) and own_memory(None) == 0
