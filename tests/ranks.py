"""Processes of a test that train or label as one."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def environment() -> dict[str, str]:
    """Where the processes meet, on a port that is free now, and where they find the packages."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "PYTHONPATH": str(ROOT)}


def outputs(count: int, words_of: Callable[[int], list[str]]) -> list[str]:
    """What each of several processes of Python printed, which all end well.

    Args:
        count: of them.
        words_of: rank -> its arguments.
    """
    where = environment()
    processes = [
        subprocess.Popen(
            [sys.executable, *words_of(rank)],
            env=where,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]
    ended = [(*process.communicate(timeout=200), process.returncode) for process in processes]
    assert [code for _, _, code in ended] == [0] * count, [error for _, error, _ in ended]
    return [out for out, _, _ in ended]
