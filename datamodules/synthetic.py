"""The generated demo set: short videos of events in which one cause moves and sounds.

Eight classes share five looks and five sounds, chained so that neither modality tells all of them apart:

    ball - thud      ball - bell     pendulum - bell     pendulum - tick     clapper - tick
    fan - hum        fan - rush      rain - rush

A recording is a pure function of (look, sound, nuisances), and the nuisances (colours, place, size, rhythm,
pitch, loudness, noise, duration, compression ...) are drawn without knowledge of the class.  Recordings of
two classes that look alike are therefore equal in every pixel when their nuisances are; the same holds for sounds.
Every event, seen or heard, happens where the rhythm's phase is a whole number.
"""

import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.processes import script_hidden
from selavi.atomic import write_atomically, write_text
from selavi.errors import UsageError
from selavi.guarded.json_file import read_json
from selavi.media import encode_clip
from selavi.meter import follow
from selavi.randomness import mix

GENERATOR_VERSION = 1
"""Raised with every change that alters a pixel or a sample."""

CLASSES = (
    "ball_thud",
    "ball_bell",
    "pendulum_bell",
    "pendulum_tick",
    "clapper_tick",
    "fan_hum",
    "fan_rush",
    "rain_rush",
)
"""Class names, each a look and a sound."""

FRAME_SIZE = 64
FPS = 12
SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class Nuisances:
    """All that varies from recording to recording and says nothing of the class."""

    num_frames: int  # 24 to 36: 2 to 3 seconds
    rate_hz: float  # events a second, seen and heard
    phase: float  # of the rhythm at the first frame, in events
    object_colour: tuple[float, float, float]  # RGB in [0, 1]
    accent_colour: tuple[float, float, float]
    background_colour: tuple[float, float, float]
    gradient: tuple[float, float]  # change of the background's brightness across the picture, along x and y
    ripple: tuple[float, float, float, float]  # of the background: amplitude, waves across x, y and a second
    brightness: float  # gain of the whole picture
    grain: float  # standard deviation of the camera noise, as a fraction of white
    centre: tuple[float, float]  # of the scene; the picture spans [-1, 1]
    drift: tuple[float, float]  # camera movement, a second
    size: float  # of the scene, 1 = fills the picture
    tilt_rad: float
    mirror: float  # 1 or -1
    swing: float  # extent of the movement, relative
    pitch: float  # factor on every frequency
    level_db: float  # root mean square of the waveform, relative to full scale
    noise_db: float  # background noise, relative to the event's sound
    noise_slope: float  # background noise's amplitude falls with frequency to this power
    echo_gain: float
    echo_s: float
    crf: int  # compression of the picture
    noise_seed: int  # of everything random within the recording: grain, raindrops, hiss


def draw_nuisances(seed: int) -> Nuisances:
    """Draw what varies; the class is no argument, so it cannot matter.

    Pitch and noise colour keep to narrow ranges on purpose: a loud trait that lasts a whole recording halves
    a group of sound-alikes as well as its two classes do, and equal clusters may settle on either.
    """
    rng = np.random.default_rng(seed)
    background, thing, accent = _draw_colours(rng)
    return Nuisances(
        num_frames=int(rng.integers(2 * FPS, 3 * FPS, endpoint=True)),
        rate_hz=rng.uniform(2.0, 3.2),
        phase=rng.uniform(),
        object_colour=thing,
        accent_colour=accent,
        background_colour=background,
        gradient=(rng.uniform(-0.1, 0.1), rng.uniform(-0.1, 0.1)),
        ripple=(rng.uniform(0.0, 0.04), rng.uniform(-2, 2), rng.uniform(-2, 2), rng.uniform(-0.5, 0.5)),
        brightness=rng.uniform(0.8, 1.1),
        grain=rng.uniform(0.005, 0.04),
        centre=(rng.uniform(-0.16, 0.16), rng.uniform(-0.12, 0.12)),
        drift=(rng.uniform(-0.03, 0.03), rng.uniform(-0.03, 0.03)),
        size=rng.uniform(0.8, 1.1),
        tilt_rad=rng.uniform(-0.15, 0.15),
        mirror=float(rng.choice((-1.0, 1.0))),
        swing=rng.uniform(0.85, 1.15),
        pitch=2.0 ** (rng.uniform(-1.5, 1.5) / 12),
        level_db=rng.uniform(-37.0, -19.0),
        noise_db=rng.uniform(-24.0, -18.0),
        noise_slope=rng.uniform(0.4, 0.6),
        echo_gain=rng.uniform(0.0, 0.2),
        echo_s=rng.uniform(0.03, 0.09),
        crf=int(rng.integers(16, 36, endpoint=True)),
        noise_seed=int(rng.integers(2**62)),
    )


_Colour = tuple[float, float, float]


def _draw_colours(rng: np.random.Generator) -> tuple[_Colour, _Colour, _Colour]:
    """Background, object and accent: light things on a dark ground, hues apart."""
    hue = rng.uniform()
    ground, thing = rng.uniform(0.1, 0.42), rng.uniform(0.68, 0.95)
    background = _rgb(hue, rng.uniform(0.1, 0.55), ground)
    object_colour = _rgb(hue + rng.uniform(0.25, 0.75), rng.uniform(0.45, 0.9), thing)
    accent = _rgb(hue + rng.uniform(), rng.uniform(0.1, 0.5), 0.7 * thing + 0.3 * ground)
    return background, object_colour, accent


def _rgb(hue: float, saturation: float, luma: float) -> _Colour:
    """A colour of the given hue in turns; its luma (ITU-R BT.601) comes near `luma`, whatever the hue."""
    wheel = 0.5 + 0.5 * np.cos(2 * np.pi * (hue - np.array([0.0, 1 / 3, 2 / 3])))
    tint = saturation * (wheel - wheel @ (0.299, 0.587, 0.114))
    headroom = min(1.0, float(np.min(np.where(tint > 0, 1 - luma, luma) / np.maximum(np.abs(tint), 1e-6))))
    red, green, blue = np.clip(luma + headroom * tint, 0, 1)
    return float(red), float(green), float(blue)


# ---- what is seen ----


@dataclass(frozen=True)
class _Scene:
    """Where a picture is drawn: axes T frames, h, w; x to the right, y down; the screen spans [-1, 1]."""

    x: np.ndarray  # (T, h, w) float32
    y: np.ndarray
    phase: np.ndarray  # (T, 1, 1) of the rhythm; an event where it is a whole number
    pixel: float  # width of a pixel
    nuisances: Nuisances
    rng: np.random.Generator

    def fill(self, distance: np.ndarray) -> np.ndarray:
        """Coverage in [0, 1] of the shape whose signed distance (negative inside) is given."""
        return np.clip(0.5 - distance / self.pixel, 0, 1)

    def disc(self, x: np.ndarray | float, y: np.ndarray | float, radius: float) -> np.ndarray:
        return self.fill(_hypot(self.x - x, self.y - y) - radius)

    def box(
        self, x: np.ndarray | float, y: np.ndarray | float, half_w: float, half_h: float, corner: float = 0.0
    ) -> np.ndarray:
        """An upright rectangle with rounded corners."""
        beyond_x = np.abs(self.x - x) - (half_w - corner)
        beyond_y = np.abs(self.y - y) - (half_h - corner)
        outside = _hypot(np.maximum(beyond_x, 0), np.maximum(beyond_y, 0))
        return self.fill(outside + np.minimum(np.maximum(beyond_x, beyond_y), 0) - corner)


def _hypot(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.sqrt(x * x + y * y)  # several times as fast as np.hypot, which guards against overflow


ACCENT, OBJECT, HIGHLIGHT = range(3)
_Layer = tuple[np.ndarray, int]
"""Coverage (T, h, w) and the paint; later layers lie in front."""


def _ball(scene: _Scene) -> Iterator[_Layer]:
    """A ball that touches the ground at each event."""
    ground, radius = 0.72, 0.3
    since = scene.phase % 1
    height = 0.95 * scene.nuisances.swing * 4 * since * (1 - since)
    y = ground - radius - height
    yield scene.box(0, ground + 0.09, 0.85, 0.09, 0.05), ACCENT
    yield scene.disc(0, y, radius), OBJECT
    yield scene.disc(-0.08, y - 0.09, 0.08), HIGHLIGHT


def _pendulum(scene: _Scene) -> Iterator[_Layer]:
    """A pendulum that turns at each event."""
    angle = 0.7 * scene.nuisances.swing * np.cos(np.pi * scene.phase)
    pivot, length = -0.8, 1.2
    sin, cos = np.sin(angle), np.cos(angle)
    along = scene.x * sin + (scene.y - pivot) * cos
    across = scene.x * cos - (scene.y - pivot) * sin
    yield scene.fill(np.maximum(np.abs(across) - 0.045, np.abs(along - length / 2) - length / 2)), ACCENT
    yield scene.box(0, pivot, 0.4, 0.07, 0.04), ACCENT
    yield scene.disc(length * sin, pivot + length * cos, 0.29), OBJECT


def _clapper(scene: _Scene) -> Iterator[_Layer]:
    """Two blocks that clap together at each event."""
    gap = 0.5 * scene.nuisances.swing * np.abs(np.sin(np.pi * scene.phase))
    for side in (-1.0, 1.0):
        yield scene.box(side * (gap + 0.24), 0, 0.24, 0.62, 0.06), OBJECT
        yield scene.box(side * (gap + 0.05), 0, 0.05, 0.62, 0.03), ACCENT


def _fan(scene: _Scene) -> Iterator[_Layer]:
    """A fan of three blades on a stand; a blade passes the top at each event."""
    hub_y = -0.15
    yield scene.box(0, 0.4, 0.06, 0.5), ACCENT
    yield scene.box(0, 0.85, 0.35, 0.06, 0.04), ACCENT
    radius = _hypot(scene.x, scene.y - hub_y)
    turn = np.arctan2(scene.x, hub_y - scene.y) / (2 * np.pi) - scene.phase / 3
    from_blade = np.abs((3 * turn + 0.5) % 1 - 0.5) * (2 * np.pi / 3)  # radians to the nearest blade's middle
    reach = 0.72 * min(scene.nuisances.swing, 1.0)
    yield scene.fill(np.maximum(radius * (from_blade - 0.48), radius - reach)), OBJECT
    yield scene.disc(0, hub_y, 0.13), ACCENT


def _rain(scene: _Scene) -> Iterator[_Layer]:
    """Rain under a cloud, in gusts: the drops of a gust reach the ground about an event."""
    num_columns, spacing = 11, 0.62
    slant = 0.12 * scene.nuisances.swing
    column = (scene.x + slant * scene.y + 1.0) * (num_columns / 2)
    nearest = np.clip(np.floor(column), 0, num_columns - 1).astype(np.intp)
    lane = scene.rng.uniform(0.3, 0.7, num_columns).astype(np.float32)
    delay = scene.rng.uniform(-0.3, 0.3, (num_columns, 16)).astype(np.float32)
    fall = (1.0 - scene.y) / spacing + scene.phase
    fall = fall + (0.5 * (nearest % 2)).astype(np.float32)
    drop = np.floor(fall).astype(np.intp)
    along = (fall - drop - 0.5 + 0.5 * delay[nearest, drop % 16]) * spacing
    across = (column - nearest - lane[nearest]) * (2 / num_columns)
    streak = scene.fill(_hypot(across, np.maximum(np.abs(along) - 0.11, 0)) - 0.045)
    inside = (np.abs(column - num_columns / 2) < num_columns / 2) & (scene.y > -0.5) & (scene.y < 1.0)
    yield streak * inside, OBJECT
    for x, y, radius in ((-0.45, -0.58, 0.26), (0.0, -0.68, 0.34), (0.45, -0.58, 0.26)):
        yield scene.disc(x, y, radius), ACCENT


LOOKS: dict[str, Callable[[_Scene], Iterator[_Layer]]] = {
    "ball": _ball,
    "pendulum": _pendulum,
    "clapper": _clapper,
    "fan": _fan,
    "rain": _rain,
}


def draw_frames(look: str, nuisances: Nuisances) -> np.ndarray:
    """Draw the pictures of a look: (T, 64, 64, 3) uint8 RGB at 12 frames a second."""
    n = nuisances
    rng = np.random.default_rng((n.noise_seed, 0))
    time_s = (np.arange(n.num_frames, dtype=np.float32) / FPS)[:, None, None]
    steps = (np.arange(FRAME_SIZE, dtype=np.float32) + 0.5) * (2 / FRAME_SIZE) - 1
    screen_y, screen_x = np.meshgrid(steps, steps, indexing="ij")

    amplitude, waves_x, waves_y, waves_hz = n.ripple
    shade = n.gradient[0] * screen_x + n.gradient[1] * screen_y
    waves = waves_x * screen_x + waves_y * screen_y + waves_hz * time_s
    shade = shade + amplitude * np.sin(2 * np.pi * waves)
    moved_x = (screen_x - (n.centre[0] + n.drift[0] * time_s)) / n.size
    moved_y = (screen_y - (n.centre[1] + n.drift[1] * time_s)) / n.size
    cos, sin = np.float32(np.cos(n.tilt_rad)), np.float32(np.sin(n.tilt_rad))
    scene = _Scene(
        x=n.mirror * (cos * moved_x + sin * moved_y),
        y=cos * moved_y - sin * moved_x,
        phase=n.phase + n.rate_hz * time_s,
        pixel=2 / FRAME_SIZE / n.size,
        nuisances=n,
        rng=rng,
    )
    visible = np.ones(scene.x.shape, dtype=np.float32)  # share of each pixel that no layer in front covers
    share = {paint: np.zeros_like(visible) for paint in (ACCENT, OBJECT, HIGHLIGHT)}
    for coverage, paint in reversed(list(LOOKS[look](scene))):
        front = visible * coverage
        share[paint] += front
        visible -= front
    colours = {
        ACCENT: n.accent_colour,
        OBJECT: n.object_colour,
        HIGHLIGHT: tuple(0.5 + 0.5 * value for value in n.object_colour),
    }
    grain = n.grain * rng.standard_normal(visible.shape, dtype=np.float32)
    frames = np.empty((*visible.shape, 3), dtype=np.uint8)
    for channel in range(3):
        plane = visible * (shade + np.float32(n.background_colour[channel]))
        for paint, colour in colours.items():
            plane += share[paint] * np.float32(colour[channel])
        plane = plane * np.float32(n.brightness) + grain
        frames[..., channel] = np.clip(plane, 0, 1) * 255 + np.float32(0.5)
    return frames


# ---- what is heard ----


@dataclass(frozen=True)
class _Stage:
    """When a sound is made: S samples."""

    phase: np.ndarray  # (S,) of the rhythm
    strike_at: np.ndarray  # first sample of each event
    pitch: float
    rng: np.random.Generator

    def pitches(self) -> np.ndarray:
        """A pitch (events, 1) for each event, no two quite alike."""
        return self.pitch * 2 ** (self.rng.uniform(-2.0, 2.0, (len(self.strike_at), 1)) / 12)

    def strikes(self, strokes: np.ndarray) -> np.ndarray:
        """Add up strokes (events, samples), one from each event on, no two equally strong."""
        total = np.zeros(len(self.phase) + strokes.shape[1])
        for first, stroke in zip(self.strike_at, strokes, strict=True):
            total[first : first + len(stroke)] += self.rng.uniform(0.8, 1.0) * stroke
        return total[: len(self.phase)]

    def swell(self) -> np.ndarray:
        """A loudness (S,) in (0, 1] that peaks at each event."""
        return 0.2 + 0.8 * np.exp(2.5 * (np.cos(2 * np.pi * self.phase) - 1))

    def hiss(self, num_samples: int, low_hz: float, high_hz: float) -> np.ndarray:
        """Noise of unit root mean square between two frequencies."""
        return _shaped_noise(self.rng, num_samples, lambda f: ((f >= low_hz) & (f <= high_hz)).astype(float))


def _thud(stage: _Stage) -> np.ndarray:
    """A low, dull blow: a tone that falls in pitch, driven hard enough for a few harmonics."""
    time_s = _seconds(0.4)
    cycles = 85 * stage.pitches() * (time_s + 0.03 * (1 - np.exp(-time_s / 0.03)))
    tone = np.tanh(2.0 * np.sin(2 * np.pi * cycles) * np.exp(-time_s / 0.07))
    return stage.strikes(tone * np.exp(-time_s / 0.12))


def _bell(stage: _Stage) -> np.ndarray:
    """A small bell: inharmonic partials, the high ones fading first."""
    time_s, pitches, tone = _seconds(0.6), stage.pitches(), 0.0
    for ratio, weight in ((1.0, 1.0), (1.51, 0.7), (2.27, 0.8), (3.36, 0.5), (4.49, 0.35)):
        partial = np.sin(2 * np.pi * 950 * pitches * ratio * time_s)
        tone = tone + weight * partial * np.exp(-time_s * ratio / 0.22)
    return stage.strikes(np.tanh(0.5 * tone) * np.minimum(time_s / 0.002, 1))


def _tick(stage: _Stage) -> np.ndarray:
    """A dry click over most of the spectrum."""
    time_s, num_events = _seconds(0.1), len(stage.strike_at)
    noise = stage.hiss(num_events * len(time_s), 1600 * stage.pitch, 7800).reshape(num_events, -1)
    return stage.strikes(np.tanh(1.5 * noise) * np.minimum(1.0, np.exp(-(time_s - 0.02) / 0.015)))


def _hum(stage: _Stage) -> np.ndarray:
    """A motor's harmonics, swelling at each event."""
    cycles = 130 * stage.pitch / SAMPLE_RATE * np.arange(len(stage.phase))
    harmonic = np.arange(1, 13)[:, None]
    turn = np.arange(4096) / 4096 + stage.rng.uniform(size=harmonic.shape)
    cycle = np.sum(np.sin(2 * np.pi * harmonic * turn) / harmonic**0.6, axis=0)
    return cycle[(cycles * 4096).astype(np.intp) % 4096] * stage.swell()


def _rush(stage: _Stage) -> np.ndarray:
    """Moving air or falling water, swelling at each event."""
    return np.tanh(0.45 * stage.hiss(len(stage.phase), 500 * stage.pitch, 5500 * stage.pitch)) * stage.swell()


SOUNDS: dict[str, Callable[[_Stage], np.ndarray]] = {
    "thud": _thud,
    "bell": _bell,
    "tick": _tick,
    "hum": _hum,
    "rush": _rush,
}


def _seconds(length_s: float) -> np.ndarray:
    return np.arange(round(length_s * SAMPLE_RATE)) / SAMPLE_RATE


def _shaped_noise(rng: np.random.Generator, num_samples: int, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Noise (S,) of unit root mean square whose spectrum follows `gain(frequency in Hz)`."""
    length = 2 ** (num_samples - 1).bit_length()  # the transform is slow at lengths with large prime factors
    spectrum = np.fft.rfft(rng.standard_normal(length))
    noise = np.fft.irfft(spectrum * gain(np.fft.rfftfreq(length, 1 / SAMPLE_RATE)), length)[:num_samples]
    return noise / _rms(noise)


def _rms(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(waveform))))


def synthesise(sound: str, nuisances: Nuisances) -> np.ndarray:
    """Make the waveform of a sound: (S,) float32 in [-1, 1] at 16 kHz, as long as the pictures last."""
    n = nuisances
    rng = np.random.default_rng((n.noise_seed, 1))
    num_samples = round(n.num_frames * SAMPLE_RATE / FPS)
    phase = n.phase + n.rate_hz * np.arange(num_samples) / SAMPLE_RATE
    events = np.arange(np.ceil(phase[0]), phase[-1])
    strike_at = ((events - n.phase) / n.rate_hz * SAMPLE_RATE).astype(int)
    event = SOUNDS[sound](_Stage(phase, strike_at, n.pitch, rng))

    delay = round(n.echo_s * SAMPLE_RATE)
    event[delay:] += n.echo_gain * event[:-delay]
    noise = _shaped_noise(rng, num_samples, lambda f: np.maximum(f, 50.0) ** -n.noise_slope)
    waveform = event / _rms(event) + 10 ** (n.noise_db / 20) * noise
    waveform *= 10 ** (n.level_db / 20) / _rms(waveform)
    return np.clip(waveform, -1, 1).astype(np.float32)


# ---- recordings and the set ----


def render(class_name: str, seed: int) -> tuple[np.ndarray, np.ndarray, Nuisances]:
    """Draw one recording's nuisances from `seed` and make it.

    Args:
        class_name: one of CLASSES.
        seed: equal seeds give equal nuisances in every class.

    Returns:
        frames (T, 64, 64, 3) uint8, waveform (S,) float32, and the nuisances.

    Raises:
        ValueError: no such class.
    """
    if class_name not in CLASSES:
        raise ValueError(f"no class {class_name!r}; the classes are {', '.join(CLASSES)}")
    look, sound = class_name.split("_")
    nuisances = draw_nuisances(seed)
    return draw_frames(look, nuisances), synthesise(sound, nuisances), nuisances


@dataclass(frozen=True)
class _Task:
    path: Path
    class_name: str
    seed: int


def _write_recording(task: _Task) -> None:
    frames, waveform, nuisances = render(task.class_name, task.seed)
    with write_atomically(task.path) as temporary:
        encode_clip(temporary, frames, waveform, fps=FPS, sample_rate=SAMPLE_RATE, crf=nuisances.crf)


def generate(
    root: Path, *, seed: int = 0, clips_per_class: Mapping[str, int], workers: int = 1, progress: bool = True
) -> None:
    """Write the set as {root}/{split}/{class}/{number}.mp4, then {root}/dataset.json.

    Recordings that are already there are kept, so an interrupted call goes on where it stopped.  Equal
    arguments give equal files on one machine and PyAV version, whatever the number of workers.

    Args:
        root: a new or empty folder, or one that this function began with equal settings.
        seed: of everything drawn.
        clips_per_class: number of recordings of each class in each split, e.g. {"train": 96, "test": 24}.
        workers: processes that render.
        progress: show a bar on stderr.

    Raises:
        UsageError: `root` holds something else.
    """
    settings = {
        "generator": "datamodules.synthetic",
        "version": GENERATOR_VERSION,
        "seed": seed,
        "clips_per_class": dict(sorted(clips_per_class.items())),
        "classes": list(CLASSES),
    }
    done, begun = root / "dataset.json", root / "dataset.json.part"
    _check_root(root, settings, done, begun)
    tasks = [task for task in _plan(root, seed, clips_per_class) if not task.path.exists()]
    text = json.dumps(settings, indent=2) + "\n"
    if tasks and not done.exists():
        write_text(begun, text)
    written = _run(tasks, workers)
    for _ in follow(written, f"generating {root}", len(tasks), "clips") if progress and tasks else written:
        pass
    if not done.exists():
        write_text(done, text)
    begun.unlink(missing_ok=True)


@dataclass(frozen=True)
class Event:
    """A stretch of a long recording in which one thing happens, in seconds [start_s, end_s)."""

    start_s: float
    end_s: float
    class_name: str


def generate_long(path: Path, *, seed: int, length_s: float, event_s: tuple[float, float] = (8.0, 30.0)) -> list[Event]:
    """Write a long recording in which the classes' events follow each other, never one of them twice in a row.

    Args:
        path: of the .mp4; what is there is replaced.
        seed: of everything drawn.
        length_s: the last event ends when this is reached.
        event_s: shortest and longest time that an event takes, give or take the 2 to 3 s after which all that says
            nothing of the class is drawn anew.

    Returns:
        The events, in the order of time, without gaps.
    """
    events = list(_draw_events(seed, length_s, event_s))
    sound = np.concatenate([render(task.class_name, task.seed)[1] for _, tasks in events for task in tasks])
    frames = (frame for _, tasks in events for task in tasks for frame in render(task.class_name, task.seed)[0])
    with write_atomically(path) as temporary:
        encode_clip(temporary, frames, sound, fps=FPS, sample_rate=SAMPLE_RATE)
    return [event for event, _ in events]


def _draw_events(seed: int, length_s: float, event_s: tuple[float, float]) -> Iterator[tuple[Event, list[_Task]]]:
    """The events of a recording, and the scenes of each."""
    rng = np.random.default_rng(mix(seed, "long"))
    class_name, at_s, number = "", 0.0, 0
    while at_s < length_s:
        class_name = str(rng.choice([name for name in CLASSES if name != class_name]))
        until_s = min(at_s + rng.uniform(*event_s), length_s)
        begin_s, scenes = at_s, []
        while at_s < until_s:
            scenes.append(_Task(Path(), class_name, mix(seed, "long", number)))
            at_s += draw_nuisances(scenes[-1].seed).num_frames / FPS
            number += 1
        yield Event(begin_s, at_s, class_name), scenes


def _check_root(root: Path, settings: Mapping[str, object], done: Path, begun: Path) -> None:
    record = next((path for path in (done, begun) if path.exists()), None)
    if record is None:
        if root.exists() and not (root.is_dir() and not any(root.iterdir())):
            raise UsageError(
                f"{root} holds something that the demo set's generator did not write; "
                "expected a new or empty folder: choose another one"
            )
        return
    try:
        existing = read_json(record)
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{record} does not describe a generated set ({error}): remove {root} or choose another folder"
        ) from error
    different = [key for key in settings if existing.get(key) != settings[key]]
    if different:
        raise UsageError(
            f"{root} holds a set generated with "
            + ", ".join(f"{key} = {existing.get(key)!r}, not {settings[key]!r}" for key in different)
            + ": remove the folder, choose another one, or ask for the same settings"
        )


def _plan(root: Path, seed: int, clips_per_class: Mapping[str, int]) -> Iterator[_Task]:
    """Every recording of the set; the numbers that name the files are shuffled, so they tell nothing."""
    for split, num_clips in clips_per_class.items():
        numbers = np.random.default_rng(mix(seed, "names", split)).permutation(num_clips * len(CLASSES))
        for position, number in enumerate(numbers):
            class_name = CLASSES[position % len(CLASSES)]
            path = root / split / class_name / f"{number:05d}.mp4"
            yield _Task(path, class_name, mix(seed, "clip", split, int(number)))


def _run(tasks: list[_Task], workers: int) -> Iterator[None]:
    if workers <= 1 or len(tasks) <= 1:
        yield from map(_write_recording, tasks)
        return
    # Spawned processes inherit no threads or locks of a parent that has loaded torch.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(tasks)), context, initializer=_ignore_interrupts) as pool:
        try:
            with script_hidden():
                written = pool.map(_write_recording, tasks, chunksize=max(1, min(8, len(tasks) // workers)))
            yield from written
        finally:
            pool.shutdown(cancel_futures=True)


def _ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent process, which ends the workers after the recordings they are at."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
