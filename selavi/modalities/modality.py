"""What the house asks of a modality.  Nothing here imports torch: the processes that only read media start without it.

From a recording to a clip's inputs:

    Window  --what is to be read: Request-->  reader  --Streams-->  value  -->  one array a modality
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

SLACK_S = 1e-3
"""Durations are sums of rounded time stamps."""

MIXED = -1
"""All channels of the sound, mixed."""
MAIN = -1
"""The picture that a player shows."""
Settings = Any
"""A selavi.config.Config, which is checked against the modalities and so cannot be named here."""


@dataclass(frozen=True)
class Window:
    """A half-open window [start_s, start_s + clip_s) of a clip, and where the square lies in its pictures."""

    start_s: float
    """Seconds from the start of the clip, which may be a piece of a recording."""
    clip_s: float
    offset: float = 0.5
    """Place of the square on the long side, in [0, 1]."""


@dataclass(frozen=True)
class Request:
    """What is to be read of a window; 0: none of it."""

    num_frames: int = 0
    """Frames, evenly spaced from the start of the window."""
    size: int = 0
    """Side of the square frames."""
    sample_rate: int = 0
    """Samples a second of the sound."""
    channel: int = MIXED
    """Which channel of the sound; MIXED: all of them."""
    stream: int = MAIN
    """Which picture stream; MAIN: the one that a player shows."""

    def __bool__(self) -> bool:
        return self.num_frames > 0 or self.sample_rate > 0

    def __or__(self, other: "Request") -> "Request":
        """Both together.

        Raises:
            ValueError: they want the same stream in two forms.
        """
        frames = [(one.num_frames, one.size, one.stream) for one in (self, other) if one.num_frames]
        sound = [(one.sample_rate, one.channel) for one in (self, other) if one.sample_rate]
        if len(set(frames)) > 1 or len(set(sound)) > 1:
            raise ValueError(f"one read gives one form of a stream, asked for {self} and {other}")
        return self.filled(other)

    def filled(self, other: "Request") -> "Request":
        """With what another one wants of the streams that this one does not read."""
        frames, sound = (self if self.num_frames else other), (self if self.sample_rate else other)
        return Request(frames.num_frames, frames.size, sound.sample_rate, sound.channel, frames.stream)


class Streams(NamedTuple):
    """What a reader finds of a request in a window."""

    frames: np.ndarray | None = None
    """(num_frames, size, size, 3) uint8; None where none were asked for."""
    waveform: np.ndarray | None = None
    """(round(clip_s * sample_rate),) int16, mono; None where none was asked for or the window has no sound."""
    vector: np.ndarray | None = None
    """(D,) float32 of the clip in the file of one modality; None where there is none."""


class Fault(NamedTuple):
    """A reason why recordings lack a modality."""

    status: str
    """One of datamodules.index.manifest.STATUSES."""
    rows: np.ndarray
    """(N,) bool, the recordings that it concerns."""
    explain: Callable[[int], str]
    """Row -> the reason in words."""


HEARD = frozenset({"audio", "statistics"})
"""Kinds that are made of sound."""


def without_sound(policy: str, modalities: Collection[str]) -> bool:
    """Whether a run needs a picture of every recording: it hears none."""
    return not HEARD & set(modalities)


def _no_streams(config: Settings) -> Request:
    return Request()


def _no_file(config: Settings) -> str:
    return ""


def _no_faults(columns: Mapping[str, np.ndarray], clip_s: float) -> Iterator[Fault]:
    return iter(())


@dataclass(frozen=True)
class Modality:
    """A kind of input that a clip may have."""

    dtype: type[np.generic]
    """Type of its decoded value."""
    shape: Callable[[Settings], tuple[int, ...]]
    """Shape of its decoded value."""
    value: Callable[[Streams, Mapping[str, Any], Window, Settings], np.ndarray | None]
    """Makes the decoded value from what was read, from the facts of the recording (`columns`) and from the window; None
    where the clip lacks it.  May raise selavi.media.MediaError."""
    example: Callable[[tuple[int, ...], np.random.Generator], np.ndarray]
    """Makes noise of a shape in the range of real values."""
    section: str = ""
    """The section that its settings are in; empty: one named as the kind."""
    columns: tuple[str, ...] = ()
    """Columns of the manifest that the functions here read."""
    missing: tuple[str, str] = ("absent", "the head judges by what the clip lacks")
    """Status and reason of a clip that has no label because its head reads this modality alone."""
    request: Callable[[Settings], Request] = _no_streams
    """What its value needs of a window."""
    file: Callable[[Settings], str] = _no_file
    """The file of vectors from which its value comes; empty: it comes from recordings."""
    still: bool = False
    """Whether a still picture has it: see selavi.modalities.reads_stills."""
    has: Callable[[Mapping[str, Any]], bool] = lambda facts: True
    """Whether a recording with these facts has it."""
    faults: Callable[[Mapping[str, np.ndarray], float], Iterator[Fault]] = _no_faults
    """Why recordings, whose facts are columns (N,), lack it or have too little of it for a clip of so many seconds; the
    first that applies counts."""
    seconds: Callable[[Mapping[str, Any], float, str], float] = lambda facts, clip_s, policy: math.inf
    """Up to where windows of clip_s seconds may reach, by the facts of a recording and data.audio_policy."""
    required: Callable[[str, Collection[str]], bool] = lambda policy, modalities: False
    """Whether data.audio_policy leaves out recordings that lack it, in a run with these modalities."""
    blank_counts: Callable[[str], bool] = lambda policy: False
    """Whether under data.audio_policy a clip that lacks it counts as having its blank value."""

    @property
    def reads_file(self) -> bool:
        """Whether its value comes from a file of vectors, not from media."""
        return self.file is not _no_file

    def blank(self, config: Settings) -> np.ndarray:
        """What stands for the value where a clip lacks it: zeros."""
        return np.zeros(self.shape(config), self.dtype)

    def num_bytes(self, config: Settings) -> int:
        """Bytes of a decoded value."""
        return math.prod(self.shape(config)) * np.dtype(self.dtype).itemsize

    def fault_of(self, facts: Mapping[str, Any], clip_s: float) -> tuple[str, str] | None:
        """The first fault of one recording, (status, reason); None without any."""
        columns = {name: np.array([facts[name]]) for name in self.columns}
        return next(((f.status, f.explain(0)) for f in self.faults(columns, clip_s) if f.rows[0]), None)
