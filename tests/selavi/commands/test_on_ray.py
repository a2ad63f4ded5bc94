"""Scan, prepare, assign and embed on a Ray cluster of two nodes: the bytes of one process, whatever dies."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from selavi.commands import on_ray
from selavi.errors import UsageError
from tools import assign, embed, prepare, scan

SIZES = ["--size", "32", "--sample-rate", "8000", "--shard-mb", "1"]
STORE_BYTES = 80_000_000


def node(cpus: float, gpus: float = 0, name: str = "one", alive: bool = True) -> dict[str, Any]:
    """A machine as ray.nodes() describes it."""
    resources = {"CPU": cpus, "memory": 1e9} | ({"GPU": gpus} if gpus else {})
    about = {"NodeManagerHostname": name, "NodeManagerAddress": "192.0.2.1"}
    return {"NodeID": f"id of {name}", "Alive": alive, "Resources": resources, **about}


def test_tasks_fill_the_machines() -> None:
    two = [node(4), node(10, name="two"), node(0, name="head"), node(64, name="gone", alive=False)]
    limits = on_ray.limits_of(two, None, takes_gpu=True)
    assert (limits.cpus, limits.gpus, limits.at_once) == (4, 0, 1 + 2)
    assert limits.nodes == {"id of one": "one (192.0.2.1)", "id of two": "two (192.0.2.1)"}
    assert on_ray.limits_of([node(64)], None, takes_gpu=False).cpus == on_ray.MOST_CPUS
    own = on_ray.limits_of(two, 6, takes_gpu=False)
    assert (own.cpus, own.at_once, list(own.nodes)) == (6, 1, ["id of two"])


def test_a_task_that_encodes_has_a_gpu_where_there_are_any() -> None:
    mixed = [node(64), node(16, 4, name="two"), node(2, 4, name="weak")]
    limits = on_ray.limits_of(mixed[:2], None, takes_gpu=True)
    assert (limits.cpus, limits.gpus, limits.at_once, list(limits.nodes)) == (4, 1, 4, ["id of two"])
    assert on_ray.limits_of(mixed[:2], None, takes_gpu=False).gpus == 0
    weak = on_ray.limits_of(mixed, None, takes_gpu=True)
    assert (weak.cpus, weak.at_once) == (1, 4 + 2)


@pytest.mark.parametrize(("nodes", "most"), [([node(4), node(8)], 8), ([], 0)])
def test_more_processors_than_a_machine_has_are_refused(nodes: list[dict[str, Any]], most: int) -> None:
    with pytest.raises(UsageError, match=f"needs 9 CPUs, and no machine of the cluster has more than {most}: give"):
        on_ray.limits_of(nodes, 9, takes_gpu=False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--on", "slurm"], "--on must be ray://HOST:PORT, or ray, got 'slurm'"),
        (["--on", "ray", "--task", "0/2"], "--on divides the work by itself"),
        (["--on", "ray", "--ray-tasks", "-1"], "--ray-tasks must be at least 1"),
        (["--ray-tasks", "4"], "--ray-tasks 4 needs --on"),
    ],
)
def test_what_ray_does_not_do_is_refused(
    words: list[str], message: str, media: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert scan.main([str(media), "--out", str(tmp_path / "m.parquet"), *words]) == 2
    assert message in capsys.readouterr().err
    assert embed.main([str(media), "--with", "crafted", "--out", str(tmp_path / "v"), *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_without_ray_it_is_said_what_to_install(
    media: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # as where it is not installed
    monkeypatch.chdir(tmp_path)
    commands = [
        (scan, [str(media)]),
        (prepare, [str(media), "shards"]),
        (embed, [str(media), "--with", "crafted"]),
        (assign, [str(finished_run), str(media), "--out", "labels"]),
    ]
    for tool, words in commands:
        assert tool.main([*words, "--on", "ray"]) == 2
        said = capsys.readouterr().err
        assert "--on ray needs the package ray, which is not installed here: pip install 'selavi[ray]'" in said
    assert not list(tmp_path.iterdir())


def test_what_is_not_shared_is_refused(
    media: Path, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", object())  # nothing of it is used
    monkeypatch.chdir(tmp_path)
    assert scan.main([str(media), "--near-doubles", "--on", "ray"]) == 2
    assert "--near-doubles decodes every file, and is not shared" in capsys.readouterr().err
    assert prepare.main([str(media), "out", "--format", "files", "--on", "ray"]) == 2
    assert "--on is for --format shards" in capsys.readouterr().err
    assert assign.main([str(finished_run), "--merge-only", "--out", "labels", "--on", "ray"]) == 2
    assert "--merge-only labels nothing: leave out --on" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert scan.main([str(media), "--on", "ray"]) == 2
    assert "without --task, outside of a SLURM array and of torchrun" in capsys.readouterr().err


@dataclass(frozen=True)
class SomeArguments:
    task: str | None = None
    on: str = "ray"
    ray_tasks: int = 0
    workers: int = 0


@dataclass(frozen=True)
class SomeResult:
    num_missing: int
    task: tuple[int, int] = (0, 9)


@pytest.mark.parametrize("missing", [[2, 0, 1], [2, 1, 1]])
def test_the_result_is_that_of_a_task_that_saw_everything(missing: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    class Ray:
        @staticmethod
        def nodes() -> list[dict[str, Any]]:
            return [node(4)]

    @contextmanager
    def connected(on: str) -> Iterator[type[Ray]]:
        yield Ray

    done: list[list[str]] = []

    def do_tasks(ray: Any, name: str, tasks: list[SomeArguments], *_: Any) -> list[SomeResult]:
        assert {(task.on, task.workers) for task in tasks} == {("", 4)}
        done.append([str(task.task) for task in tasks])
        return [SomeResult(0)] if len(tasks) == 1 else list(map(SomeResult, missing))

    monkeypatch.setattr(on_ray, "_connected", connected)
    monkeypatch.setattr(on_ray, "_require_seen", lambda *_: None)
    monkeypatch.setattr(on_ray, "_do_tasks", do_tasks)
    results = on_ray.share_on_ray("scan", SomeArguments(), [Path("cache")], cpus=None)
    assert results[-1] == SomeResult(0, (0, 1))
    assert done[0] == ["0/4", "1/4", "2/4", "3/4"]
    assert done[1:] == ([] if 0 in missing else [["0/1"]])


def test_a_task_ends_where_nobody_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "_LOOK_S", 0.01)
    awaited = tmp_path / "awaited"
    awaited.touch()
    with on_ray._interrupted_without(str(awaited)):
        time.sleep(0.05)
    with pytest.raises(KeyboardInterrupt), on_ray._interrupted_without(str(awaited)):
        awaited.unlink()
        time.sleep(20)
    began = []
    with pytest.raises(KeyboardInterrupt), on_ray._interrupted_without(str(awaited)):
        began.append("never")
    assert not began
    assert not [thread for thread in threading.enumerate() if thread.name == "awaited"]
    nowhere = OSError(errno.EIO, "a folder that does not answer")
    awaited.touch()
    with on_ray._interrupted_without(str(awaited)):
        with monkeypatch.context() as patch:
            patch.setattr(on_ray.os, "stat", Mock(side_effect=nowhere))
            time.sleep(0.05)
        time.sleep(0.05)


@pytest.fixture(scope="module")
def cluster(repository: Path) -> Iterator[str]:
    """Two nodes of one CPU; the address for clients from outside.  RAY_ADDRESS names it, too."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'selavi[ray]', as make test-slow does")
    from ray.cluster_utils import Cluster

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(repository))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        small = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": STORE_BYTES}
        nodes = Cluster(initialize_head=True, head_node_args=small | {"ray_client_server_port": port})
        nodes.add_node(**small)
        patch.setenv("RAY_ADDRESS", nodes.address)
        yield f"ray://127.0.0.1:{port}"
        nodes.shutdown()


def files_of(folder: Path) -> dict[str, bytes]:
    """What every file holds, but for locks, which say who wrote here and when."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.slow
@pytest.mark.parametrize("on", ["ray", "ray://"])
def test_scans_and_shards_are_those_of_one_process(
    on: str, cluster: str, demo_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    where = cluster if on == "ray://" else on
    for name, words in (("whole", ["--workers", "1"]), ("shared", ["--on", where])):
        cache = ["--cache-dir", f"{name}/cache"]  # relative: to the folder where the command is typed
        assert scan.main([str(demo_set), *cache, "--out", f"{name}/scan/manifest.parquet", *words]) == 0
        said = capfd.readouterr().err
        assert prepare.main([str(demo_set), f"{name}/shards", *cache, *SIZES, *words]) == 0
        said += capfd.readouterr().err
    assert f"{where}: 8 tasks, 2 at once, 1 CPUs and 0 GPUs each; machines for them: 2" in said
    assert "manifest: shared/scan/manifest.parquet" in said and "48 of them encoded now" in said
    for folder in ("scan", "shards"):
        whole = files_of(tmp_path / "whole" / folder)
        assert files_of(tmp_path / "shared" / folder) == whole and len(whole) > 1


@pytest.mark.slow
def test_labels_are_those_of_one_process(
    cluster: str, finished_run: Path, demo_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(finished_run), str(demo_set / "test"), "--shard-clips", "3", "--views", "1", "--workers", "0"]
    assert assign.main([*words, "--out", str(tmp_path / "whole")]) == 0
    copy = ["--copy-to", f"file://{tmp_path}/copy"]
    assert assign.main([*words, "--out", str(tmp_path / "shared"), "--on", "ray", "--ray-tasks", "3", *copy]) == 0
    assert "assignments.parquet" in capsys.readouterr().err
    whole = files_of(tmp_path / "whole")
    assert files_of(tmp_path / "shared") == whole and "assignments.parquet" in whole
    assert (tmp_path / "copy" / "assignments.parquet").read_bytes() == whole["assignments.parquet"]


DIES_ONCE = """
import os, pathlib, signal
import torch

def encoder():
    def encode(frames):
        try:
            pathlib.Path("died").touch(exist_ok=False)
        except FileExistsError:
            return frames.mean((3, 4)).flatten(1)
        os.kill(os.getpid(), signal.SIGKILL)
    return encode

def dies():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_a_task_whose_process_dies_is_started_again(
    cluster: str, demo_set: Path, media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dying.py").write_text(DIES_ONCE)
    words = [str(demo_set / "test"), "--shard-clips", "3", "data.clip_s=1", "video.num_frames=2", "video.size=32"]
    words += ["video.decode_size=32", f"data.cache_dir={tmp_path}/cache"]
    shared = [*words, "--on", "ray", "--ray-tasks", "3"]
    assert embed.main([*shared, "--with", "dying:encoder", "--out", "shared"]) == 0
    assert (tmp_path / "died").exists()
    assert embed.main([*words, "--with", "dying:encoder", "--out", "whole", "--workers", "1"]) == 0
    for name in ("video.npy", "ids.csv"):
        assert (tmp_path / "shared" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    capfd.readouterr()
    bad = [str(media), *shared[1:], "--max-bad-fraction", "0.1"]
    assert embed.main([*bad, "--with", "dying:encoder", "--out", "bad"]) == 3
    assert "--max-bad-fraction 0.1 allows 0" in capfd.readouterr().err
    assert embed.main([*shared, "--with", "dying:dies", "--out", "never", "--ray-tasks", "1"]) == 2
    assert "error: Ray has given up a task (The worker died" in capfd.readouterr().err


@pytest.mark.slow
def test_a_machine_that_does_not_see_the_folder_is_named_before_the_work(
    cluster: str, demo_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    own = "/proc/self/cwd/cache"  # another folder in each process
    assert scan.main([str(demo_set), "--cache-dir", own, "--on", "ray"]) == 2
    said = capfd.readouterr().err
    assert f"{socket.gethostname()} (" in said and f"does not see {own} as it is here" in said
    assert not list((tmp_path / "cache").iterdir()) and not (tmp_path / "manifest.parquet").exists()


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_is_a_line(media: Path, tmp_path: Path, capfd: Any) -> None:
    pytest.importorskip("ray", reason="needs Ray: pip install 'selavi[ray]', as make test-slow does")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [str(media), "--out", str(tmp_path / "m.parquet"), "--on", f"ray://127.0.0.1:{port}"]
    assert scan.main(words) == 2
    assert f"--on ray://127.0.0.1:{port}: there is no Ray cluster to connect to" in capfd.readouterr().err


ALL_WAIT_BUT_ONE = """
import pathlib, time

def encoder():
    go, waits = pathlib.Path("go"), False
    try:
        pathlib.Path("one").touch(exist_ok=False)
    except FileExistsError:
        waits = True

    def encode(frames):
        while waits and not go.exists():
            time.sleep(0.05)
        with open("encoded.txt", "a") as file:
            file.write("clip\\n" * len(frames))
        return frames.mean((3, 4)).flatten(1)
    return encode
"""


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_command_that_is_stopped_goes_on(
    number: signal.Signals, code: int, cluster: str, demo_set: Path, tmp_path: Path, repository: Path
) -> None:
    (tmp_path / "waiting.py").write_text(ALL_WAIT_BUT_ONE)
    out, encoded = tmp_path / "shared", tmp_path / "encoded.txt"
    words = [sys.executable, str(repository / "tools" / "embed.py"), str(demo_set / "test"), "--with"]
    words += ["waiting:encoder", "--shard-clips", "3", "data.clip_s=1", "video.num_frames=2", "video.size=32"]
    words += ["video.decode_size=32", f"data.cache_dir={tmp_path}/cache"]
    shared = [*words, "--out", str(out), "--on", "ray", "--ray-tasks", "3"]
    stopped = subprocess.Popen(shared, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    until_s = time.monotonic() + 120
    while len(list(out.glob("parts/*.parquet"))) < 2:  # the shards of the one
        assert stopped.poll() is None and time.monotonic() < until_s
        time.sleep(0.05)
    os.kill(stopped.pid, number)
    said = stopped.communicate(timeout=120)[1]
    assert stopped.returncode == code, said
    assert "embed: what is finished is kept: the same command goes on" in said
    assert not list(tmp_path.rglob(".selavi-*")) and not (out / "ids.csv").exists()
    (tmp_path / "go").touch()
    again = subprocess.run(shared, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False)
    assert again.returncode == 0, again.stderr
    assert "16 clips have vectors" in again.stderr and len(encoded.read_text().split()) == 16  # each once
    whole = [*words, "--out", str(tmp_path / "whole"), "--workers", "1"]
    assert subprocess.run(whole, cwd=tmp_path, check=False).returncode == 0
    for name in ("video.npy", "ids.csv"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
