"""What doctor reports: checks, measurements and advice, as a table or as JSON."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Mark = Literal["ok", "warning", "problem"]
_SEVERITY: dict[Mark, int] = {"ok": 0, "warning": 1, "problem": 2}


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    area: str
    name: str
    mark: Mark
    finding: str
    advice: str = ""
    """What to change; empty where nothing is wrong."""


@dataclass(frozen=True)
class Advice:
    """A change that makes a run faster."""

    change: str
    gain: float
    """Time of a run as it is, divided by the time with the change."""
    clips_per_s: float
    """Clips a second of the run with the change."""


@dataclass(frozen=True)
class Outcome:
    """How a piece of Python ended in a process of its own."""

    error: str = ""
    """What it wrote to standard error, or how it was killed; empty: it ended well."""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """The JSON object it printed."""


@dataclass
class Report:
    """Everything that was examined, in order."""

    checks: list[Check] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    advice: list[Advice] = field(default_factory=list)

    @property
    def problems(self) -> list[Check]:
        """What makes training impossible."""
        return [check for check in self.checks if check.mark == "problem"]

    def as_json(self) -> str:
        """One JSON object in one line."""
        checks = [
            {
                "area": check.area,
                "name": check.name,
                "mark": check.mark,
                "found": check.finding,
                "advice": check.advice,
            }
            for check in self.checks
        ]
        return json.dumps(
            {
                "python": sys.version.split()[0],
                "checks": checks,
                "measured": self.measured,
                "advice": [asdict(advice) for advice in self.advice],
            }
        )

    def as_text(self) -> str:
        """A table: mark, name and finding; below what is not ok, what to do."""
        lines = [f"python {sys.version.split()[0]} on {os.uname().sysname} {os.uname().release}"]
        width = max((len(check.name) for check in self.checks), default=0)
        area = ""
        for check in self.checks:
            if check.area != area:
                area = check.area
                lines += ["", area]
            lines.append(f"  {check.mark:<8} {check.name:<{width}}  {check.finding}")
            if check.advice:
                lines.append(f"  {'':<8} {'':<{width}}  -> {check.advice}")
        if self.advice:
            lines += ["", "what would make a run faster, as measured here"]
            lines += [
                f"  x{advice.gain:<7.2f} {advice.change}  ({advice.clips_per_s:.1f} clips/s)" for advice in self.advice
            ]
        return "\n".join(lines)


def worst(marks: list[Mark]) -> Mark:
    """The worst of some marks; `ok` where there are none."""
    return max(marks, key=lambda mark: _SEVERITY[mark], default="ok")
