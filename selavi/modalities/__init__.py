"""Modalities: the named inputs of a clip.  Each is of a kind, which says how it is read; one file a kind.

A new kind is an entry here, one in selavi.augment and one in selavi.encoders, each with its file.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import zip_longest

import numpy as np

from selavi.errors import UsageError
from selavi.modalities.audio import AUDIO
from selavi.modalities.features import FEATURES
from selavi.modalities.image import IMAGE
from selavi.modalities.modality import MAIN, MIXED, SLACK_S, Fault, Modality, Request, Settings, Streams, Window
from selavi.modalities.motion import MOTION
from selavi.modalities.statistics import STATISTICS
from selavi.modalities.video import VIDEO

__all__ = [
    "MAIN",
    "MIXED",
    "MODALITIES",
    "SLACK_S",
    "Fault",
    "Modality",
    "Request",
    "Settings",
    "Streams",
    "Window",
    "clip_seconds",
    "examples",
    "files_of",
    "kind_of",
    "named",
    "num_bytes",
    "reads_media",
    "reads_part",
    "reads_sound",
    "reads_stills",
    "request_of",
    "request_of_media",
    "requests_of",
    "require_mixed",
    "section_of",
    "source_of",
]

MODALITIES: dict[str, Modality] = {
    "video": VIDEO,
    "audio": AUDIO,
    "features": FEATURES,
    "image": IMAGE,
    "motion": MOTION,
    "statistics": STATISTICS,
}
"""The kinds by name, in the order in which a run has them that names none: the first modality of a run is the
reference that the heads of others align to."""
_RESERVED = ("concat", "joint", "own", "cross")
"""Words of labelling.source, which may also be the name of a modality."""


def named(modalities: Iterable[str] | Mapping[str, str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Name -> kind of a run's modalities, of a list of kinds or a mapping as it stands.

    Args:
        modalities: kinds, which are then their own names and in the order of MODALITIES; or name -> kind.
        taken: names that mean something else in the settings.

    Raises:
        UsageError: none, one twice, a kind that there is not (the message lists those that there are), a name that
            cannot be one.
    """
    kinds = ", ".join(MODALITIES)
    if not isinstance(modalities, Mapping):
        names = list(modalities) if isinstance(modalities, list | tuple) else [modalities]
        if not names or sorted(map(str, names)) != sorted(set(map(str, names)) & MODALITIES.keys()):
            raise UsageError(
                f"modalities must be some of {kinds}, each once, got {names}; several of one kind, or other names, "
                "as a mapping: {left: video, right: video}"
            )
        return {name: name for name in MODALITIES if name in names}
    wrong = {name: kind for name, kind in modalities.items() if str(kind) not in MODALITIES}
    if wrong or not modalities:
        raise UsageError(f"modalities must be a mapping from names to kinds ({kinds}), got {wrong or '{}'}")
    taken = {*_RESERVED, *taken}
    for name, kind in modalities.items():
        if name != kind and (not re.fullmatch("[a-z][a-z0-9_]*", str(name)) or name in MODALITIES or name in taken):
            raise UsageError(
                f"modalities: {name!r} cannot name a modality of kind {kind}: a name has small letters, digits and _, "
                "and is no kind and no section of the settings"
            )
    own_names = any(name != kind for name, kind in modalities.items())
    return dict(modalities) if own_names else named(list(modalities))


def section_of(name: str) -> str:
    """The section with the settings of a kind; of any other name, the name."""
    kind = MODALITIES.get(name)
    return kind.section or name if kind else name


def request_of(config: Settings, names: Iterable[str]) -> Request:
    """What some modalities of a run need of a window, together.

    Raises:
        UsageError: two of them want the same stream in two forms.
    """
    request = Request()
    try:
        for name in names:
            request |= kind_of(config, name).request(config.seen_by(name))
    except ValueError as error:
        raise UsageError(f"modalities {', '.join(names)}: {error}; give them the same settings") from error
    return request


def requests_of(config: Settings, names: Iterable[str]) -> dict[Request, list[str]]:
    """What is to be read for some modalities of a run, and which of them each read serves.

    One read gives one picture stream and one channel of the sound: there are as many as one of both has.

    Raises:
        UsageError: as request_of.
    """
    by_stream: dict[int, list[str]] = {}
    by_channel: dict[int, list[str]] = {}
    without: list[str] = []
    for name in names:
        request = kind_of(config, name).request(config.seen_by(name))
        if request.sample_rate:
            by_channel.setdefault(request.channel, []).append(name)
        elif request.num_frames:
            by_stream.setdefault(request.stream, []).append(name)
        else:
            without.append(name)
    pairs = zip_longest(by_channel.values(), by_stream.values(), fillvalue=list[str]())
    groups = [[*hearing, *seeing] for hearing, seeing in pairs] or [[]]
    groups[0] += without
    return {request_of(config, group): group for group in groups}


def request_of_media(config: Settings) -> Request:
    """As request_of for all of a run's modalities, and what other kinds need of the streams that these do not read.

    So media that are decoded ahead serve whichever modalities another run has.  They have no parts.
    """
    request = request_of(config, [name for name in config.kinds if not reads_part(config, name)])
    for kind in MODALITIES.values():
        request = request.filled(kind.request(config))
    return replace(request, stream=MAIN, channel=MIXED)


def kind_of(config: Settings, name: str) -> Modality:
    """The kind of one of a run's modalities."""
    return MODALITIES[config.kinds[name]]


def reads_sound(config: Settings, names: Iterable[str]) -> bool:
    """Whether one of some modalities is made from the sound."""
    return any(request.sample_rate for request in requests_of(config, names))


def reads_frames(config: Settings, names: Iterable[str]) -> bool:
    """Whether one of some modalities is made from the picture."""
    return any(request.num_frames for request in requests_of(config, names))


def reads_part(config: Settings, name: str) -> bool:
    """Whether a modality is one channel of the sound, or a picture stream of its own: only the files have these."""
    request = kind_of(config, name).request(config.seen_by(name))
    return request.channel != MIXED or request.stream != MAIN


def files_of(config: Settings) -> dict[str, str]:
    """The files of vectors of those among a run's modalities that come from one."""
    files = {name: kind_of(config, name).file(config.seen_by(name)) for name in config.kinds}
    return {name: path for name, path in files.items() if path}


def require_mixed(config: Settings) -> None:
    """Refuse a modality that reads one channel or another picture, where clips are prepared: they have one of each.

    Raises:
        UsageError: there is one.
    """
    reading = [name for name in config.kinds if reads_part(config, name)]
    if reading:
        raise UsageError(
            f"prepared clips have one picture, and their channels mixed, and {reading[0]} reads a channel or a picture "
            "stream of its own: read the files"
        )


def reads_media(config: Settings) -> bool:
    """Whether a run reads recordings, or nothing but files of vectors."""
    return any(requests_of(config, config.kinds)) or len(files_of(config)) < len(config.kinds)


def source_of(config: Settings) -> str:
    """Where a run's clips are, in words."""
    files = dict.fromkeys(files_of(config).values())
    return ", ".join([config.data.root] * reads_media(config) + [*files])


def reads_stills(config: Settings) -> bool:
    """Whether the files of a run are still pictures: those of its modalities that read media need no more of a file.

    A still picture is a recording of one frame, shown at time 0, that lasts 0 seconds (selavi.media.stills): where
    windows are drawn, all of them begin at 0, and only what asks for seconds has to know of it: see clip_seconds.
    """
    kinds = [kind_of(config, name) for name in config.kinds]
    return any(kind.still for kind in kinds) and all(kind.still or kind.reads_file for kind in kinds)


def clip_seconds(config: Settings) -> float:
    """Seconds that a file has to last to hold a clip: data.clip_s of recordings, 0 of still pictures and of vectors."""
    return config.data.clip_s if reads_media(config) and not reads_stills(config) else 0.0


def num_bytes(config: Settings) -> int:
    """Bytes of one decoded clip, as the loader processes send it."""
    return sum(kind_of(config, name).num_bytes(config.seen_by(name)) for name in config.kinds)


def examples(config: Settings, num_clips: int, seed: int) -> dict[str, np.ndarray]:
    """Noise with the type and shape of decoded clips, (B, ...) for each of a run's modalities."""
    generator = np.random.default_rng(seed)
    return {
        name: kind_of(config, name).example((num_clips, *kind_of(config, name).shape(config.seen_by(name))), generator)
        for name in config.kinds
    }
