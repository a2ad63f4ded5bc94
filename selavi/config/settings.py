"""What a setting is: where it may differ when a run goes on, how a bad value is refused, and walks over all of them."""

from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin

PATHS = ("data.root", "data.list", "data.cache_dir", "run_dir", "encoders.init")
"""Settings that are paths, or URLs: ~ and ~name are home folders in them."""

SPEED_ONLY = frozenset(
    ("run_dir", "resume", "data.cache_dir", "data.cache_gb", "data.num_workers", "data.scan_workers")
)
"""Settings that say where things are and how fast they go, not what is computed."""

FREE_ON_RESUME = SPEED_ONLY | {
    "data.root",
    "data.demo",
    "data.max_bad_fraction",
    "data.timeout_s",
    "data.allow_links",
    "data.layout",  # which clips there are is compared by their ids
    "data.shard_cache_gb",
    "labelling.batch_size",
    "labelling.memory_gb",
    "trainer.accelerator",
    "trainer.strategy",
    "trainer.log_every_n_steps",
}
"""Settings that may differ when a run goes on: those, where the media are, what is tolerated, and how much memory is
taken.  The last ones change rounding errors at most."""


def require(condition: bool, key: str, expected: str, found: object) -> None:
    """Raise ValueError in one wording for all settings."""
    if not condition:
        raise ValueError(f"{key} must be {expected}, got {found}")


def text_keys(section: type, prefix: str = "") -> set[str]:
    """Settings that hold text and nothing else: str, and words of a Literal."""
    keys = set()
    for entry in fields(section):
        if isinstance(entry.type, type) and is_dataclass(entry.type):
            keys |= text_keys(entry.type, f"{prefix}{entry.name}.")
        elif entry.type is str or (get_origin(entry.type) is Literal and isinstance(get_args(entry.type)[0], str)):
            keys.add(prefix + entry.name)
    return keys


def all_keys(section: type, prefix: str = "") -> list[str]:
    """Names of the sections and of the settings in them."""
    keys = []
    for entry in fields(section):
        keys.append(prefix + entry.name)
        if isinstance(entry.type, type) and is_dataclass(entry.type):
            keys += all_keys(entry.type, f"{prefix}{entry.name}.")
    return keys


def numbers(section: Any, prefix: str = "") -> list[tuple[str, str, float]]:
    """Section, name and value of each setting that holds a float."""
    found = []
    for entry in fields(section):
        value = getattr(section, entry.name)
        if is_dataclass(value):
            found += numbers(value, f"{prefix}{entry.name}.")
        elif isinstance(value, float):
            found.append((prefix, entry.name, value))
    return found
