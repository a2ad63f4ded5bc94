"""The tasks of a command on a Ray cluster, each a share of the work as under SLURM; the only user of Ray.

Ray says where and when a task is done, and starts it again where its process or its machine died.  What tasks do and
how their results are put together is the command's own: the task that ends last does that, with the bytes of one
process.
"""

import _thread
import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selavi import __version__
from selavi.cli import Parser
from selavi.errors import DataError, NumericError, UsageError
from selavi.runs.launch import task_of

if TYPE_CHECKING:
    from selavi.config import Config

RETRIES = 3
"""How often a task whose process died is started again."""
SHARES = 4
"""Tasks for each that the cluster does at once, so that no machine waits long for another at the end."""
MOST_CPUS = 16
"""Processors of a task, unless it is said how many."""
_CONNECTS = 3
"""How often a connection is tried whose other end dies."""
_STOP_S = 60.0
"""Seconds that tasks which shall end have for it."""
_LOOK_S = 0.5
"""Seconds between two looks of a task whether it shall end."""
_EXPECTED = (UsageError, DataError, NumericError, OSError, MemoryError)
"""Faults of a task that are said as if they had come about here; others are crashes."""


@dataclass(frozen=True)
class Limits:
    """What a task gets of a cluster."""

    cpus: int
    gpus: int
    at_once: int
    """Tasks that the cluster can do at the same time."""
    nodes: dict[str, str]
    """Machines that can do one: Ray's id -> name."""


def add_on_ray(parser: Parser) -> None:
    """Where the tasks are done."""
    about = (
        "do the work on a Ray cluster, whose machines all see the folders of the command: its address, or `ray`: the "
        "cluster of RAY_ADDRESS, else the one that runs on this machine, else one that is started for this command"
    )
    parser.add_argument("--on", metavar="ray://HOST:PORT", help=about)
    about = "with --on: into how many tasks, of as many CPUs as --workers says, the work is divided (default: "
    about += f"{SHARES} for each that is done at once)"
    parser.add_argument("--ray-tasks", type=int, metavar="N", help=about)


def check_on_ray(arguments: Any) -> None:
    """Refuse what Ray does not do; `arguments` have on, ray_tasks and task.

    Raises:
        UsageError: no such cluster can be meant, Ray is not installed, or the work is already divided.
    """
    if not arguments.on:
        if arguments.ray_tasks:
            raise UsageError(f"--ray-tasks {arguments.ray_tasks} needs --on: where the tasks are done")
        return
    if arguments.on != "ray" and not arguments.on.startswith("ray://"):
        raise UsageError(f"--on must be ray://HOST:PORT, or ray, got {arguments.on!r}")
    if arguments.ray_tasks < 0:
        raise UsageError(f"--ray-tasks must be at least 1, or 0 for the default, got {arguments.ray_tasks}")
    if arguments.task is not None or task_of(None, os.environ)[1] > 1:
        alone = "run the command once, without --task, outside of a SLURM array and of torchrun"
        raise UsageError(f"--on divides the work by itself: {alone}")
    try:
        import ray  # noqa: F401
    except ImportError as error:
        message = f"--on {arguments.on} needs the package ray, which is not installed here: pip install 'selavi[ray]'"
        raise UsageError(message) from error


def share_on_ray(
    name: str, arguments: Any, folders: Sequence[Path], *, cpus: int | None, takes_gpu: bool = False
) -> list[Any]:
    """Do the tasks of a command on a Ray cluster, with a bar; those that are left end where one fails.

    Args:
        name: of the command, whose result has num_missing.
        arguments: of the command, checked; with on, ray_tasks, task and workers.
        folders: in which the tasks meet; made where they are not there. The first may hold a file whose name ends in
            .tmp while they work.
        cpus: processors of a task; None: those that a machine of the cluster has, and as many decode.
        takes_gpu: a task gets a GPU where the cluster has any.

    Returns:
        The result of each task as they ended; the last one is that of the command, as one process gives it.

    Raises:
        UsageError: no cluster answers; a machine does not see the folders, or has another selavi; a task's process died
            again and again.
        Exception: whatever else a task raises.
    """
    with _connected(arguments.on) as ray:
        limits = limits_of(ray.nodes(), cpus, takes_gpu)
        _require_seen(ray, limits, folders)
        count = arguments.ray_tasks or SHARES * limits.at_once
        about = f"{count} tasks, {limits.at_once} at once, {limits.cpus} CPUs and {limits.gpus} GPUs each"
        print(f"{arguments.on}: {about}; machines for them: {len(limits.nodes)}", file=sys.stderr)
        workers = limits.cpus if cpus is None else arguments.workers
        own = replace(arguments, on="", ray_tasks=0, workers=workers)
        shares = [replace(own, task=f"{each}/{count}") for each in range(count)]
        results = _do_tasks(ray, name, shares, limits, folders[0])
        if all(result.num_missing for result in results):
            # A shared folder may show late what other machines have written; then no task saw everything.
            results += _do_tasks(ray, name, [replace(own, task="0/1")], limits, folders[0])
        results.sort(key=lambda result: result.num_missing == 0)
        return [*results[:-1], replace(results[-1], task=(0, 1))]


def encode_on_ray(name: str, arguments: Any, out: Path, config: "Config") -> Any:
    """Do the tasks of a command that encodes clips, each with the CPUs of --workers and a GPU if there is one.

    Args:
        name: of the command.
        arguments: as for share_on_ray, with copy_to, which is left to the command.
        out: folder of its results.
        config: whose trainer.accelerator may say that no GPU is wanted.

    Returns:
        The result of the command, as one process gives it.
    """
    own = replace(arguments, copy_to="")
    cpus = None if arguments.workers is None else max(1, arguments.workers)
    return share_on_ray(name, own, [out], cpus=cpus, takes_gpu=config.trainer.accelerator != "cpu")[-1]


def limits_of(nodes: Sequence[dict[str, Any]], cpus: int | None, takes_gpu: bool) -> Limits:
    """What a task gets.

    Args:
        nodes: as ray.nodes() lists them.
        cpus: processors that it shall have; None: those of the smallest machine, with GPUs its share for each of
            them, at most MOST_CPUS.
        takes_gpu: it gets a GPU where there are any.

    Raises:
        UsageError: no machine has as many.
    """
    alive = [node for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    with_gpus = [node for node in alive if takes_gpu and node["Resources"].get("GPU", 0) >= 1]
    able, gpus = with_gpus or alive, int(bool(with_gpus))
    sizes = [(int(node["Resources"]["CPU"]), int(node["Resources"].get("GPU", 0))) for node in able]
    if cpus is None:
        shares = [num_cpus // (num_gpus if gpus else 1) for num_cpus, num_gpus in sizes]
        cpus = max(1, min([MOST_CPUS, *shares]))
    room = [min(num_cpus // cpus, num_gpus if gpus else num_cpus) for num_cpus, num_gpus in sizes]
    if not any(room):
        most = max((num_cpus for num_cpus, _ in sizes), default=0)
        about = f"a task needs {cpus} CPUs, and no machine of the cluster has more than {most}: give fewer --workers"
        raise UsageError(about)
    names = [f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})" for node in able]
    fitting = {node["NodeID"]: name for node, name, has_room in zip(able, names, room, strict=True) if has_room}
    return Limits(cpus, gpus, sum(room), fitting)


@contextmanager
def _connected(on: str) -> Iterator[Any]:
    """The module ray, connected to a cluster, until the block ends; a connection that the caller has is used and stays.

    Raises:
        UsageError: no cluster answers.
    """
    import ray

    if ray.is_initialized():
        yield ray
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # of a cluster that is started here: it calls nobody
    in_main = threading.current_thread() is threading.main_thread()
    stop = signal.getsignal(signal.SIGTERM)
    try:
        _connect(ray, on)
        if in_main:
            signal.signal(signal.SIGTERM, stop)  # Ray's own handler ends this process at once
        yield ray
    finally:
        ray.shutdown()
        if in_main:
            signal.signal(signal.SIGTERM, stop)


def _connect(ray: Any, on: str) -> None:
    for num_left in reversed(range(_CONNECTS)):
        try:
            ray.init(None if on == "ray" else on, logging_level=logging.WARNING)
            return
        except Exception as error:  # of many kinds, by what of the way there is missing
            ray.shutdown()
            # A cluster starts a process for each ray://, and now and then that dies at once: then another may live.
            if num_left and isinstance(error, ConnectionAbortedError):
                continue
            words = " ".join(_lines(error))[:300]
            raise UsageError(f"--on {on}: there is no Ray cluster to connect to ({words})") from error


def _require_seen(ray: Any, limits: Limits, folders: Sequence[Path]) -> None:
    """Ask every machine, before the work begins, whether it sees files that are made here.

    Raises:
        UsageError: one does not, or has another selavi or none.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look, places = ray.remote(_look), {os.getcwd(): Path.cwd()}
    with ExitStack() as files:
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
            places[os.path.abspath(files.enter_context(_own_file(folder)))] = folder.absolute()
        asked = []
        for node, name in limits.nodes.items():
            place = NodeAffinitySchedulingStrategy(node, soft=False)
            asked.append((name, look.options(num_cpus=0, scheduling_strategy=place).remote(list(places))))
        for name, answer in asked:
            try:
                version, missing = ray.get(answer)
            except ray.exceptions.RayError as error:
                raise UsageError(
                    f"{name} cannot run selavi ({_lines(error)[-1]}): install selavi {__version__} in the environment "
                    "of its Ray"
                ) from error
            if version != __version__:
                raise UsageError(f"{name} has selavi {version}, and here is {__version__}: install the same on all")
            if missing:
                raise UsageError(
                    f"{name} does not see {places[missing[0]]} as it is here: work, and let results go, in a folder "
                    "that all machines of the cluster share under one path (--copy-to then copies results elsewhere)"
                )


@contextmanager
def _own_file(folder: Path) -> Iterator[str]:
    """The path of an empty file that is there until the block ends."""
    number, path = tempfile.mkstemp(dir=folder, prefix=".selavi-", suffix=".tmp")
    os.close(number)
    try:
        yield path
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _do_tasks(ray: Any, name: str, tasks: Sequence[Any], limits: Limits, folder: Path) -> list[Any]:
    """Do tasks; returns their results as they end.

    Tasks that shall end before are not cancelled, since Ray ends this process where it cancels one that ends just then
    (ray-project/ray, pull request 54738): they end by themselves where a file is gone that is in `folder` for as long
    as somebody waits for them.

    Raises:
        UsageError: a process died again and again.
        Exception: what a task raises.
    """
    from selavi.meter import Meter

    do = ray.remote(_do)
    limit = {"num_cpus": limits.cpus, "num_gpus": limits.gpus, "max_retries": RETRIES}
    meter, results, pending = Meter(name, len(tasks), "tasks"), [], []
    try:
        with _own_file(folder) as awaited:
            words = (os.getcwd(), os.path.abspath(awaited))
            pending = [do.options(name=f"{name} {task.task}", **limit).remote(name, task, *words) for task in tasks]
            while pending:
                ended, pending = ray.wait(pending)
                results += [_result_of(ray, one) for one in ended]
                meter.advance()
    except BaseException:
        if pending:
            ray.wait(pending, num_returns=len(pending), timeout=_STOP_S)
        print(f"{name}: what is finished is kept: the same command goes on", file=sys.stderr)
        raise
    finally:
        meter.close(finished=not pending)
    return results


def _result_of(ray: Any, ended: Any) -> Any:
    try:
        return ray.get(ended)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, _EXPECTED):
            raise error.cause from None
        raise
    except ray.exceptions.RayError as error:
        raise UsageError(
            f"Ray has given up a task ({_lines(error)[0]}), which it starts {RETRIES} times again where its process "
            "dies. If memory is short: fewer --workers need less"
        ) from error


def _look(places: Sequence[str]) -> tuple[str, list[str]]:
    """On a machine of the cluster: its version of selavi, and the paths that it does not see."""
    return __version__, [place for place in places if not os.path.exists(place)]


def _do(name: str, arguments: Any, folder: str, awaited: str) -> Any:
    """On a machine of the cluster: a task of a command, as if it had been typed in a folder.

    Returns:
        Its result; None where `awaited` was gone before it had one.
    """
    from selavi.commands.main import find_command

    os.chdir(folder)
    try:
        with _interrupted_without(awaited):
            return find_command(name).run(arguments)
    except KeyboardInterrupt:
        return None


@contextmanager
def _interrupted_without(path: str) -> Iterator[None]:
    """Raise KeyboardInterrupt in the block, in the main thread, as soon as there is no file of this path."""
    if _is_gone(path):
        raise KeyboardInterrupt
    ended, lock = threading.Event(), threading.Lock()

    def watch() -> None:
        while not ended.wait(_LOOK_S):
            if _is_gone(path):
                with lock:
                    if not ended.is_set():
                        _thread.interrupt_main()
                return

    thread = threading.Thread(target=watch, name="awaited", daemon=True)
    thread.start()
    try:
        yield
    finally:
        with lock:
            ended.set()
        thread.join()


def _is_gone(path: str) -> bool:
    try:
        os.stat(path)
    except FileNotFoundError:
        return True
    except OSError:  # a shared folder that does not answer now
        return False
    return False


def _lines(error: BaseException) -> list[str]:
    """What an error says, of Ray's with the traceback of another machine; at least one line."""
    lines = [line.strip()[:300] for line in str(error).splitlines() if line.strip()]
    return lines or [type(error).__name__]
