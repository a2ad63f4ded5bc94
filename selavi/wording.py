"""Durations, sizes and commands as people read and paste them."""

import shlex
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


def command(tool: str, *words: str | Path) -> str:
    """A command of this house to paste into a shell, its words quoted where a shell needs it: `train`, ..."""
    return shlex.join(["python", f"tools/{tool}.py", *map(str, words)])
