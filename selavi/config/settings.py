"""What a setting is: a field of a dataclass with its limits, and what else is to be said of it.

`setting` makes one, `check_limits` refuses values out of the limits, `all_settings` walks over those of a run.
"""

import math
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import Field, dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin

_LARGEST_WHOLE = 2**63
"""Whole numbers from here on fit into no tensor and seed no generator."""
Freedom = Literal["", "told", "resume", "always"]


def anywhere(config: Any) -> bool:
    """The condition of a Need that depends on nothing in the settings."""
    return True


@dataclass(frozen=True)
class Need:
    """A condition without which a setting has no effect."""

    text: str
    """The condition in words, as they follow `needs`."""
    holds: Callable[[Any], bool] = anywhere
    """Whether a Config fulfils it."""
    command: str = ""
    """The only command that reads the setting; empty: any."""

    def is_met(self, config: Any, command: str) -> bool:
        """Whether the setting has an effect in a run of `command` with these settings."""
        return self.command in ("", command) and self.holds(config)


def setting(
    default: Any,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    above: float | None = None,
    below: float | None = None,
    unit: str = "",
    why: str = "",
    free: Freedom = "",
    path: bool = False,
    needs: Need | tuple[Need, ...] = (),
    earlier: Any = None,
    earlier_saved: bool = False,
) -> Any:
    """A field of a section of settings.

    Args:
        default: its value where none is given; lists and mappings are copied.
        least: the smallest value, of each number in lists and mappings.
        most: the largest value.
        above: what it must be larger than.
        below: what it must be smaller than.
        unit: of the number, for messages and docs.
        why: what the limit comes from, or what to do instead; in brackets behind it.
        free: where it may differ from a run's first start.  always: it says where things are and how fast they go, not
            what is computed; resume: when the same run goes on; told: then, too, with `--change`; empty: nowhere.
        path: it is a path or a URL: ~ and ~name are home folders in it.
        needs: conditions without which it has no effect.
        earlier: what runs did that were made before there was this setting; None: what the default says.
        earlier_saved: whether there was this setting then, with `earlier` as its default.
    """
    limits = Limits(least, most, above, below, unit, why)
    about = About(limits, free, path, needs if isinstance(needs, tuple) else (needs,), earlier, earlier_saved)
    if isinstance(default, list | dict):
        return field(default_factory=lambda: deepcopy(default), metadata={"about": about})
    return field(default=default, metadata={"about": about})


def section(kind: type, needs: Need | tuple[Need, ...] = ()) -> Any:
    """A field that holds a section; its settings have no effect where a need is not met."""
    about = About(needs=needs if isinstance(needs, tuple) else (needs,))
    return field(default_factory=kind, metadata={"about": about})


@dataclass(frozen=True)
class Limits:
    """The numbers that a setting may be."""

    least: float = -math.inf
    most: float = math.inf
    above: float | None = None
    below: float | None = None
    unit: str = ""
    why: str = ""

    def allow(self, number: float) -> bool:
        """Whether a number is within them; nan never is."""
        above = self.above is None or number > self.above
        below = self.below is None or number < self.below
        return self.least <= number <= self.most and above and below

    def __str__(self) -> str:
        """In words: `at least 2 (batch norm)`, `in [0, 1)`, `0.04 to 600 seconds`; empty where there are none."""
        low = self.least if self.above is None else self.above
        high = self.most if self.below is None else self.below
        if math.isinf(low) and math.isinf(high):
            return ""
        words = self._range(low, high) + (f" {self.unit}" if self.unit else "")
        return words + (f" ({self.why})" if self.why else "")

    def _range(self, low: float, high: float) -> str:
        if math.isinf(high) and self.above is None:
            return f"at least {low:g}" if low else "0 or more"
        if math.isinf(high):
            return f"above {low:g}"
        if high > 1 and self.above is None and self.below is None:
            return f"{low:g} to {high:g}"
        return f"in {'[' if self.above is None else '('}{low:g}, {high:g}{']' if self.below is None else ')'}"


@dataclass(frozen=True)
class About:
    """What is to be said of a setting beside its meaning, which stands below it in sections.py."""

    limits: Limits = Limits()
    free: Freedom = ""
    path: bool = False
    needs: tuple[Need, ...] = ()
    earlier: Any = None
    earlier_saved: bool = False


@dataclass(frozen=True)
class Setting:
    """A setting and its place."""

    section: str
    """Name of its section; empty at the top."""
    field: "Field[Any]"
    about: About
    """The needs are its own and those of its section."""

    @property
    def key(self) -> str:
        """Such as heads.num_clusters."""
        return f"{self.section}.{self.field.name}".lstrip(".")

    @property
    def is_text(self) -> bool:
        """It holds text and nothing else: str, or words of a Literal."""
        kind = self.field.type
        return kind is str or (get_origin(kind) is Literal and isinstance(get_args(kind)[0], str))

    @property
    def default(self) -> Any:
        """Its value where none is given."""
        made = self.field.default_factory
        return made() if callable(made) else self.field.default

    @property
    def earlier(self) -> Any:
        """Its value in runs that were made before there was this setting."""
        return self.default if self.about.earlier is None else self.about.earlier

    @property
    def is_younger(self) -> bool:
        """Whether runs that were made before there was this setting did something else than its default."""
        return self.about.earlier is not None

    def value(self, config: Any) -> Any:
        """Its value in a Config."""
        return getattr(config.section(self.section) if self.section else config, self.field.name)

    def set(self, config: Any, value: Any) -> None:
        """Put a value into a Config, unchecked."""
        setattr(config.section(self.section) if self.section else config, self.field.name, value)

    def is_default(self, config: Any) -> bool:
        """Whether nothing else was chosen for it in a Config."""
        return bool(self.value(config) == self.default)


def all_settings(config_type: type) -> Iterator[Setting]:
    """The settings of a run in the order of sections.py; those of a section follow each other."""
    for entry in fields(config_type):
        if "about" not in entry.metadata:
            continue
        about, kind = _about(entry), entry.type
        if not (isinstance(kind, type) and is_dataclass(kind)):
            yield Setting("", entry, about)
            continue
        for inner in fields(kind):
            own = _about(inner)
            together = About(own.limits, own.free, own.path, about.needs + own.needs, own.earlier, own.earlier_saved)
            yield Setting(entry.name, inner, together)


def check_limits(section: Any) -> None:
    """Raise ValueError for a number of a section (VideoConfig is `video`) that is out of its limits, or not finite."""
    name = type(section).__name__.removesuffix("Config").lower()
    for entry in fields(section):
        if "about" not in entry.metadata:
            continue
        key = f"{name}.{entry.name}".lstrip(".")
        value, limits = getattr(section, entry.name), _about(entry).limits
        expected = str(limits) or "a finite number"
        if isinstance(value, list | tuple | dict):
            expected = f"numbers {expected}"
        if type(None) in get_args(entry.type):
            expected += ", or null"
        numbers = _numbers_in(value)
        fits = all(abs(number) < _LARGEST_WHOLE for number in numbers if isinstance(number, int))
        require(fits, key, "between -2^63 and 2^63", value)
        require(all(map(limits.allow, numbers)), key, expected, value)
        require(all(map(math.isfinite, numbers)), key, "a finite number", value)


def require(condition: bool, key: str, expected: str, value: object) -> None:
    """Raise ValueError in one wording for all settings."""
    if not condition:
        raise ValueError(f"{key} must be {expected}, got {value}")


def _about(entry: "Field[Any]") -> About:
    about: About = entry.metadata["about"]
    return about


def _numbers_in(value: Any) -> list[float]:
    """The numbers that a value is made of; none in a text, a truth value or null."""
    if isinstance(value, dict):
        return _numbers_in(list(value.values()))
    entries = value if isinstance(value, list | tuple) else [value]
    return [entry for entry in entries if isinstance(entry, int | float) and not isinstance(entry, bool)]
