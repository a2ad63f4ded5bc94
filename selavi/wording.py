"""Durations, sizes and commands as people read and paste them."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def duration(seconds: float) -> str:
    """`0.4 s`, `42 s`, `2 min 40 s`, `3 h 05 min`, `2 days 4 h`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    if minutes < 48 * 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} days {hours % 24} h"


def about(seconds: float) -> str:
    """An estimate, no finer than one can be: `about 20 s`, `about 40 min`, `about 3 h 20 min`, `about 5 days`."""
    if seconds < 57.5:
        return f"about {max(5, 5 * round(seconds / 5))} s"
    minutes = max(1, round(seconds / 60))
    if minutes < 60:
        return f"about {minutes} min"
    tens = round(minutes / 10)
    if tens < 24 * 6:
        return f"about {tens // 6} h" + (f" {tens % 6 * 10} min" if tens % 6 else "")
    days = round(seconds / 86_400)
    return "about a day" if days <= 1 else f"about {days} days"


def speed(per_second: float) -> str:
    """Three digits, and never an exponent: `0.0213`, `4.56`, `12,300`."""
    return f"{per_second:.3g}" if per_second < 999.5 else f"{float(f'{per_second:.3g}'):,.0f}"


def byte_size(num_bytes: float) -> str:
    """`512 bytes`, `6.4 kB`, `31 MB`, `1.2 GB`: powers of 1000."""
    if num_bytes < 1000:
        return f"{num_bytes:.0f} bytes"
    unit = next((unit for unit in ("kB", "MB", "GB") if num_bytes < 999.5 * _UNITS[unit]), "TB")
    value = num_bytes / _UNITS[unit]
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"


_UNITS = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


_OLDER_NAMES = {"evaluate": "cluster_eval", "export": "export_clusters"}
"""Commands whose file in tools/, and whose script selavi-NAME, have another name."""
_how_called: list[str] = ["selavi", "{name}"]


def tool_name(name: str) -> str:
    """The file of a command in tools/: `evaluate` -> `cluster_eval`."""
    return _OLDER_NAMES.get(name, name)


def command(name: str, *words: str | Path) -> str:
    """A command to paste into a shell, in the form in which this program was called, quoted where a shell needs it."""
    return shlex.join([*_program_words(name), *map(str, words)])


def program(name: str) -> str:
    """The first words of a command, as its usage shows them: `selavi train`."""
    return " ".join(_program_words(name))


@contextmanager
def called_as(*words: str) -> Iterator[None]:
    """Print commands in one of these forms while the context lasts; without it, as `selavi train`.

    Args:
        words: the first words of a command, where {name} stands for its name, {tool} for its file in tools/ and
            {script} for the end of its script selavi-NAME: ("python", "tools/{tool}.py"), ("selavi-{script}",).
    """
    before = _how_called[:]
    _how_called[:] = words
    try:
        yield
    finally:
        _how_called[:] = before


def _program_words(name: str) -> list[str]:
    tool = tool_name(name)
    return [word.format(name=name, tool=tool, script=tool.replace("_", "-")) for word in _how_called]
