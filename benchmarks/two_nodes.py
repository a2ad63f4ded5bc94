"""Two machines that train as one, and the network between them goes down, or one of them hangs.

    python benchmarks/two_nodes.py             results, page; needs root and Linux's `ip`, `unshare`
    python benchmarks/two_nodes.py --rounds 2  a trial; printed, not published

A machine is a network namespace with a name of its own; a pair of virtual cards joins the two, and both see one
folder.  torchrun starts tools/train.py on either, on a small generated set.  At a random moment of the training the
link is taken down, or all processes of one machine are stopped by SIGSTOP.  When the others have ended, the link is up
again or the stopped machine is killed, and the same commands go on to the end.  Labels are compared with those of two
processes on one machine that nothing has disturbed.  Runs that are done are kept in benchmarks/results/two_nodes.json,
so this goes on where it stopped.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from common import RESULTS, ROOT, TINY, machine, markdown_table, show_page

from datamodules.synthetic import generate
from selavi.atomic import write_text
from selavi.errors import UsageError
from selavi.runs.checkpoint import read_checkpoint
from selavi.runs.folder import RunFolder
from selavi.signals import STOPPING, stopping_signals

ROUNDS = 1
TIMEOUT_S = 20
STEPS = 160
FAULTS = {
    "link down": "the link is taken down",
    "machine 1 stopped": "SIGSTOP for all processes of machine 1",
    "machine 0 stopped": "SIGSTOP for all processes of machine 0, where the processes meet",
}
SETTINGS = (
    *TINY,
    *("trainer.strategy=ddp", "trainer.max_epochs=40", f"trainer.timeout_s={TIMEOUT_S}", "trainer.save_every_s=1"),
    *("trainer.log_every_n_steps=1", "labelling.num_labellings=8", "resume=auto"),
)


@dataclass(frozen=True)
class Machine:
    """A network namespace with one card."""

    number: int
    space: str
    card: str
    address: str

    def start(self, words: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        """Run torchrun on this machine, one of two."""
        environment = {**os.environ, "GLOO_SOCKET_IFNAME": self.card, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        named = ["unshare", "--uts", "sh", "-c", f'hostname node{self.number} && exec "$@"', "sh"]
        nodes = ["--nnodes", "2", "--node-rank", str(self.number), "--nproc-per-node", "1"]
        meet = ["--master-addr", address(0), "--master-port", "29500"]
        torchrun = [sys.executable, "-m", "torch.distributed.run", *nodes, *meet]
        command = ["ip", "netns", "exec", self.space, *named, *torchrun, *words]
        with log.open("wb") as output:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)

    def set_link(self, state: str) -> None:
        """Take the card up or down."""
        output_of("ip", "-n", self.space, "link", "set", self.card, state)


def address(number: int) -> str:
    """In a network of documentation (RFC 5737), which no real machine has."""
    return f"192.0.2.{number + 1}"


def output_of(*command: str) -> str:
    """What a command of the system prints.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def two_machines() -> Iterator[list[Machine]]:
    """Two machines, joined by a link; whatever happens, their processes are killed and they are removed."""
    spaces = [f"selavi-{os.getpid()}-{number}" for number in (0, 1)]
    machines = [Machine(number, space, f"card{number}", address(number)) for number, space in enumerate(spaces)]
    remove_spaces()
    try:
        for space in spaces:
            output_of("ip", "netns", "add", space)
            output_of("ip", "-n", space, "link", "set", "lo", "up")
        first, second = machines
        pair = ["ip", "-n", first.space, "link", "add", first.card, "type", "veth", "peer", "name", second.card]
        output_of(*pair, "netns", second.space)
        for node in machines:
            output_of("ip", "-n", node.space, "addr", "add", f"{node.address}/24", "dev", node.card)
            node.set_link("up")
        yield machines
    finally:
        for number in (*STOPPING, signal.SIGINT):  # a second one must not end the cleaning up
            signal.signal(number, signal.SIG_IGN)
        remove_spaces(os.getpid())


def remove_spaces(owner: int | None = None) -> None:
    """Remove the namespaces of a process, or those of earlier ones that were killed, with all that runs in them."""
    for name in output_of("ip", "netns", "list").split():
        match = re.fullmatch(r"selavi-(\d+)-[01]", name)
        if match and (int(match[1]) == owner or not Path("/proc", match[1]).exists()):
            send(signal.SIGKILL, name)
            output_of("ip", "netns", "delete", name)


def send(number: int, space: str) -> None:
    """Send a signal to every process in a namespace."""
    for pid in output_of("ip", "netns", "pids", space).split():
        with suppress(ProcessLookupError):
            os.kill(int(pid), number)


def require_namespaces() -> None:
    """Stop where this machine does not let us make namespaces."""
    missing = [name for name in ("ip", "unshare", "hostname") if shutil.which(name) is None]
    if os.geteuid() != 0:
        missing.insert(0, "root's rights")
    if missing:
        raise SystemExit(f"two_nodes needs network namespaces: {', '.join(missing)} missing here; nothing was run")


def train(folder: Path, media: Path, devices: int, machines: int) -> list[str]:
    """The tool with its arguments."""
    places = [f"data.root={media}", f"data.cache_dir={media}-cache", f"run_dir={folder}"]
    shape = [f"trainer.devices={devices}", f"trainer.num_nodes={machines}"]
    return ["tools/train.py", "--config", "configs/demo.yaml", *places, *SETTINGS, *shape]


def wait(processes: Sequence[subprocess.Popen[bytes]], limit_s: float) -> list[float | None]:
    """When processes end, in seconds from now; None for one that does not within the limit."""
    began = time.monotonic()
    ended: list[float | None] = [None] * len(processes)
    while None in ended and time.monotonic() - began < limit_s:
        for number, process in enumerate(processes):
            if ended[number] is None and process.poll() is not None:
                ended[number] = time.monotonic() - began
        time.sleep(0.05)
    return ended


def start(machines: Sequence[Machine], folder: Path, media: Path) -> list[subprocess.Popen[bytes]]:
    """Train on both machines."""
    return [node.start(train(folder, media, 1, 2), log_of(folder, node.number)) for node in machines]


def log_of(folder: Path, number: int) -> Path:
    """What a machine prints, beside the run's folder."""
    return folder.with_name(f"{folder.name}-{number}.log")


def fail(what: str, folder: Path) -> None:
    """Show the last lines of both machines.

    Raises:
        SystemExit: always.
    """
    raise SystemExit("\n".join([what, *(log_of(folder, number).read_text()[-3000:] for number in (0, 1))]))


def run_to_end(machines: Sequence[Machine], folder: Path, media: Path) -> None:
    """Train on both machines until the run is finished."""
    processes = start(machines, folder, media)
    wait(processes, 900)
    if any(process.returncode != 0 for process in processes):
        fail("a training that was left alone did not come to its end", folder)


def wait_for_step(step: int, processes: Sequence[subprocess.Popen[bytes]], folder: Path) -> None:
    """Wait until a run has a checkpoint of this step, or of a later one."""
    give_up = time.monotonic() + 600
    while (checkpoint(folder)["kept_step"] or 0) < step:
        if any(process.poll() is not None for process in processes) or time.monotonic() > give_up:
            fail(f"a training has not come to step {step}", folder)
        time.sleep(0.1)


def try_fault(name: str, seed: int, machines: Sequence[Machine], folder: Path, media: Path) -> dict[str, Any]:
    """Train, disturb it between two checkpoints, and see how the processes end."""
    draws = random.Random(f"{name} {seed}")
    processes = start(machines, folder, media)
    wait_for_step(draws.randrange(STEPS // 8, STEPS * 6 // 8), processes, folder)
    time.sleep(draws.uniform(0.0, 1.0))
    stopped = next((node for node in machines if name == f"machine {node.number} stopped"), None)
    if stopped is None:
        machines[1].set_link("down")
    else:
        send(signal.SIGSTOP, stopped.space)
    watched = [node for node in machines if node is not stopped]
    ended = wait([processes[node.number] for node in watched], TIMEOUT_S + 120)
    if stopped is None:
        machines[1].set_link("up")
    for node in machines:  # what is stopped, and what hangs
        send(signal.SIGKILL, node.space)
    for process in processes:
        process.wait()
    reports = []
    for node, seconds in zip(watched, ended, strict=True):
        text = log_of(folder, node.number).read_text()
        reports.append({"machine": node.number, "ended_s": seconds, **ending(text, 1 - node.number)})
    return {"fault": name, "seed": seed, "ends": reports, **checkpoint(folder)}


def ending(log: str, other: int) -> dict[str, Any]:
    """How a process ended, by what it and torchrun have printed.

    Args:
        log: of one machine.
        other: number of the process that it should name.
    """
    code = re.search(r"exitcode\s*: (-?\d+)", log)
    message = re.search(r"lost touch with .*", log)
    text = message[0] if message else ""
    names = re.match(rf"lost touch with process {other} of 2 \(pid \d+ on node{other}\), last heard of", text)
    return {"code": int(code[1]) if code else None, "names_the_other": names is not None, "message": text}


def checkpoint(folder: Path) -> dict[str, Any]:
    """Whether the last checkpoint is whole, and its step."""
    try:
        return {"is_whole": True, "kept_step": read_checkpoint(RunFolder(folder).last_checkpoint)["global_step"]}
    except UsageError as error:
        return {"is_whole": False, "kept_step": None, "reason": str(error)}


def try_run(name: str, seed: int, machines: Sequence[Machine], unbroken: Path, media: Path) -> dict[str, Any]:
    """Disturb a run, let it go on, and compare it with the unbroken one."""
    folder = unbroken.with_name(f"{name.replace(' ', '-')}-{seed}")
    shutil.rmtree(folder, ignore_errors=True)
    outcome = try_fault(name, seed, machines, folder, media)
    print(outcome, file=sys.stderr, flush=True)
    run_to_end(machines, folder, media)
    outcome["labels_equal"] = labels(folder).equals(labels(unbroken))
    outcome["litter"] = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.tmp*"))
    return outcome


def labels(folder: Path) -> Any:
    """The label table of the training clips."""
    return pq.read_table(RunFolder(folder).labels("train")).replace_schema_metadata(None)


def alone(folder: Path, media: Path) -> None:
    """Two processes on this machine, without any namespace."""
    shutil.rmtree(folder, ignore_errors=True)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run([*torchrun, *train(folder, media, 2, 1)], cwd=ROOT, env=environment, check=True)


def page(result: Mapping[str, Any]) -> str:
    """docs/results/two_nodes.md."""
    rows = []
    for name, words in FAULTS.items():
        runs = [run for run in result["runs"] if run["fault"] == name]
        ends = [end for run in runs for end in run["ends"]]
        seconds = [end["ended_s"] for end in ends if end["ended_s"] is not None]
        codes = sorted({str(end["code"]) for end in ends})
        rows.append(
            [
                words,
                str(len(runs)),
                f"{len(seconds)} of {len(ends)}",
                f"{max(seconds):.1f}" if seconds else "none",
                ", ".join(re.findall(r"last heard of (\d+) s", " ".join(end["message"] for end in ends))) or "none",
                ", ".join(codes),
                f"{sum(end['names_the_other'] for end in ends)} of {len(ends)}",
                f"{sum(run['is_whole'] for run in runs)} of {len(runs)}",
                f"{sum(run['labels_equal'] for run in runs)} of {len(runs)}",
                str(sum(len(run["litter"]) for run in runs)),
            ]
        )
    header = [
        "fault",
        "runs",
        "processes that ended",
        "the last after, s",
        "silence, s",
        "exit code",
        "that name the other",
    ]
    header += ["whole checkpoints", "equal labels", "litter"]
    example = next((end["message"] for run in result["runs"] for end in run["ends"] if end["message"]), "none")
    return PAGE.format(
        table=markdown_table(header, rows),
        undisturbed="equal those" if result["undisturbed_equal"] else "are NOT those",
        timeout=TIMEOUT_S,
        example=example,
        processor=result["machine"]["processor"],
        cores=result["machine"]["cores"],
        date=result["date"],
    )


PAGE = """# Two machines

What becomes of a run on two machines when the network goes down, or one of them hangs?

A machine is a network namespace with a name of its own; a pair of virtual cards joins the two, and both see one folder.
torchrun starts the training, gloo carries its sums. Left alone, the labels of the two machines {undisturbed} of two
processes on one machine. At a random moment the link is taken down, or all processes of one machine are stopped. When
the others have ended, the link is up again, or what was stopped is killed, and the same commands go on to the end.
Their labels, too, are compared with the undisturbed ones. `trainer.timeout_s` is {timeout}.

{table}

- *processes that ended*: by themselves, of those that could (a stopped one cannot). *the last after*: from the fault to
  the end of torchrun on that machine; other work ran on the two cores, and programs took long to end. *silence*: how
  long ago each message says that the other was heard of, which is up to 5 s before the fault.
- *exit code*: of the training, as torchrun reports it; torchrun itself ends with 1.
- *that name the other*: the message says which process was lost, and on which machine, such as

> {example}

Measured on {processor}, {cores} cores, without a GPU, {date}, by `python benchmarks/two_nodes.py`; raw figures:
[two_nodes.json](../../benchmarks/results/two_nodes.json). Both machines are one kernel and one disk: a folder that goes
away with the network is not tried here.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of each fault (default: {ROUNDS})")
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=list(FAULTS), help="default: all")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "selavi-benchmark-two-nodes"))
    args = parser.parse_args()
    require_namespaces()
    is_trial = args.rounds != ROUNDS or args.faults != list(FAULTS)
    media, unbroken, both = args.work / "media", args.work / "unbroken", args.work / "undisturbed"
    generate(media, seed=5, clips_per_class={"train": 8, "test": 2}, progress=False)
    alone(unbroken, media)
    store = (args.work if is_trial else RESULTS) / "two_nodes.json"
    result: dict[str, Any] = {"date": time.strftime("%Y-%m-%d"), "machine": machine(), "runs": []}
    if store.exists() and not is_trial:
        result["runs"] = json.loads(store.read_text(encoding="utf-8"))["runs"]
    done = {(run["fault"], run["seed"]) for run in result["runs"]}
    with stopping_signals(), two_machines() as machines:
        shutil.rmtree(both, ignore_errors=True)
        run_to_end(machines, both, media)
        result["undisturbed_equal"] = labels(both).equals(labels(unbroken))
        for seed, name in product(range(args.rounds), args.faults):
            if (name, seed) not in done:
                result["runs"].append(try_run(name, seed, machines, unbroken, media))
                write_text(store, json.dumps(result, indent=1) + "\n")
    show_page("two_nodes", page(result), is_trial)


if __name__ == "__main__":
    main()
