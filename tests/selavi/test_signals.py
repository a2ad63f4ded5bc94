import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from selavi.signals import STOPPING, Terminated, stopping_signals
from tests.ranks import environment

COMMAND = """
import sys, time
from selavi.cli import run_tool

def work():
    try:
        print("at work", flush=True)
        time.sleep(60)
    finally:
        print("cleaned up", flush=True)

sys.exit(run_tool(work))
"""


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGTERM, 75, "stopped by SIGTERM\n"),
        (signal.SIGUSR1, 75, "stopped by SIGUSR1\n"),
        (signal.SIGINT, 130, "stopped by the keyboard\n"),
    ],
)
def test_every_command_cleans_up_and_says_what_stopped_it(number: int, code: int, message: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "at work\n"
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error) == (code, "cleaned up\n", message)


def test_handlers_are_given_back() -> None:
    before = [signal.getsignal(number) for number in STOPPING]
    with pytest.raises(Terminated, match="SIGUSR1"), stopping_signals():
        assert [signal.getsignal(number) for number in STOPPING] != before
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(5)
    assert [signal.getsignal(number) for number in STOPPING] == before


def test_a_thread_leaves_signals_alone() -> None:
    before, seen = [signal.getsignal(number) for number in STOPPING], []

    def look() -> None:
        with stopping_signals():
            seen.extend(signal.getsignal(number) for number in STOPPING)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == before


def test_a_forked_process_dies_as_ever() -> None:
    with stopping_signals():
        pid = os.fork()
        if pid == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(1)
        _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGTERM
