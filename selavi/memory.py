"""What is said where memory runs out, what this process has of it, and memory that a file stands for."""

import mmap
import os
import re
import resource
import tempfile
from contextlib import suppress
from pathlib import Path

_ASKED = (
    r"[Tt]ried to allocate ([\d.]+ (?:bytes|[KMGTPE]i?B))",  # torch, of a CPU and of a GPU
    r"[Uu]nable to allocate ([\d.]+ (?:bytes|[KMGTPE]i?B))",  # numpy
    r"(?:malloc|realloc) of size (\d+)",  # pyarrow
)
LARGE = 1 << 26
"""Bytes from which on memory lies in a file."""
_REFUSED = r"DefaultCPUAllocator: (can't allocate|not enough) memory|out of memory"
_FREE = r"of which ([\d.]+ [KMGTPE]i?B) is free"


def explain_memory(error: BaseException) -> str | None:
    """One line for an error that says that memory is full, of Python, numpy, pyarrow or torch; None for any other."""
    text = " ".join(str(error).split())
    if not isinstance(error, MemoryError) and not (isinstance(error, RuntimeError) and re.search(_REFUSED, text)):
        return None
    on_gpu = re.search(r"CUDA|HIP|MPS", text)
    place = "the memory of the GPU" if on_gpu else "memory"
    free = _first((_FREE,), text) if on_gpu else free_memory()
    asked = _first(_ASKED, text)
    figures = [f"{asked} more were asked for" if asked else "", f"{free} are free" if free else ""]
    said = ", ".join(filter(None, figures))
    return (
        f"{place} is full{f': {said}' if said else ''}. What may help: close other programs; lower "
        "labelling.memory_gb, labelling.batch_size, data.cache_gb or data.num_workers, with which a run goes on "
        "(resume=auto); or encode fewer clips of a step at a time (--change optim.micro_batch=N). Whatever was there "
        "before is as it was"
    )


def free_memory() -> str:
    """What the system could still give, in words; empty where it does not say."""
    try:
        match = re.search(r"MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(encoding="utf-8"))
    except OSError:
        return ""
    return f"{int(match[1]) * 1024 / 1e9:.1f} GB" if match else ""


def peak_memory() -> int:
    """Most bytes that this process has had in memory."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory_now() -> int:
    """Bytes that this process has in memory; the most that it has had where the system does not say."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return peak_memory()
    return int(pages) * resource.getpagesize()


def memory_in_file(num_bytes: int, folder: Path) -> mmap.mmap | None:
    """Memory of so many bytes that lies in a file without a name in a folder; None for little, or where it cannot.

    Its pages leave the memory when that is needed, and the file is gone when nobody has it.
    """
    if num_bytes >= LARGE:
        with suppress(OSError, AttributeError), tempfile.TemporaryFile(dir=folder) as file:
            # Else a disk that gets full would end the process; not every system has it.
            os.posix_fallocate(file.fileno(), 0, num_bytes)
            return mmap.mmap(file.fileno(), num_bytes)
    return None


def _first(patterns: tuple[str, ...], text: str) -> str:
    """What the first pattern that fits says, bytes as GB."""
    for pattern in patterns:
        match = re.search(pattern, text)
        if match:
            number, _, unit = match[1].partition(" ")
            return f"{float(number) / 1e9:.1f} GB" if unit in ("", "bytes") else match[1]
    return ""
