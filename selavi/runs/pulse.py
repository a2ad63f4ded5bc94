"""Signs of life of the processes that train together, so that one that hangs can be named by those that wait for it."""

import os
import socket
import time
from pathlib import Path

from selavi.distributed import rank, world_size
from selavi.runs.folder import RunFolder

EVERY_S = 5.0


class Pulse:
    """Files RUN/.pulse/RANK, touched every few seconds by the process of that rank.

    Args:
        run_dir: the run's folder, which all processes see; where they do not, none can be named.
    """

    def __init__(self, run_dir: Path | str) -> None:
        self.folder = RunFolder(run_dir).pulse
        self.number, self.world_size = 0, 1
        self.beaten_s = -EVERY_S

    def beat(self) -> None:
        """Say that this process is alive, and where it runs."""
        now_s = time.monotonic()
        if world_size() == 1 or now_s - self.beaten_s < EVERY_S:
            return
        self.number, self.world_size, self.beaten_s = rank(), world_size(), now_s
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file(self.number).write_text(f"pid {os.getpid()} on {socket.gethostname()}", encoding="utf-8")

    def silent(self) -> str:
        """The other process that has been silent for longest, in words; empty where none can be named."""
        others = {number: self._file(number) for number in range(self.world_size) if number != self.number}
        ages_s = {number: time.time() - path.stat().st_mtime for number, path in others.items() if path.exists()}
        if not ages_s:
            return ""
        oldest = max(ages_s, key=lambda number: ages_s[number])
        place = others[oldest].read_text(encoding="utf-8", errors="replace")
        return f"process {oldest} of {self.world_size} ({place}), last heard of {max(0.0, ages_s[oldest]):.0f} s ago"

    def _file(self, number: int) -> Path:
        return self.folder / str(number)
