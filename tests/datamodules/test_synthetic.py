import inspect
import json
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kruskal
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

from datamodules import synthetic
from datamodules.synthetic import (
    CLASSES,
    FPS,
    FRAME_SIZE,
    LOOKS,
    SAMPLE_RATE,
    SOUNDS,
    Nuisances,
    draw_frames,
    draw_nuisances,
    generate,
    render,
    synthesise,
)
from selavi.errors import UsageError
from selavi.media import encode_clip

PAIRS = [tuple(name.split("_")) for name in CLASSES]
COUNTS = {"train": 2, "test": 1}


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def flat(nuisances: Nuisances) -> dict[str, float]:
    """Each number of the nuisances under a name of its own."""
    numbers = {}
    for name, value in asdict(nuisances).items():
        values = value if isinstance(value, tuple) else (value,)
        numbers.update({f"{name}[{i}]": float(number) for i, number in enumerate(values)})
    return numbers


# ---- the structure of the classes ----


def test_three_pairs_look_alike_and_three_sound_alike() -> None:
    looks, sounds = Counter(look for look, _ in PAIRS), Counter(sound for _, sound in PAIRS)
    assert len(set(PAIRS)) == len(CLASSES) == 8
    assert set(looks) == set(LOOKS) and set(sounds) == set(SOUNDS)
    assert sorted(looks.values()) == sorted(sounds.values()) == [1, 1, 2, 2, 2]


@pytest.mark.parametrize("modality", [0, 1])
def test_one_modality_cannot_tell_the_classes(modality: int) -> None:
    clips = [(index, pair[modality], half) for index, pair in enumerate(PAIRS) for half in (0, 1)]
    classes = [index for index, _, _ in clips]
    # Eight clusters of one size: a group of two classes is cut in halves that say nothing of the class.
    doubled = {group for group, count in Counter(pair[modality] for pair in PAIRS).items() if count == 2}
    clusters = [f"{group}{half if group in doubled else ''}" for _, group, half in clips]
    assert len(set(clusters)) == 8
    assert normalized_mutual_info_score(classes, clusters) == pytest.approx(0.75)


@pytest.mark.parametrize("seed", [3, 4])
def test_classes_that_share_a_look_or_sound_share_every_pixel_or_sample(seed: int) -> None:
    rendered = {name: render(name, seed) for name in CLASSES}
    for (look_a, sound_a), a in zip(PAIRS, rendered.values(), strict=True):
        for (look_b, sound_b), b in zip(PAIRS, rendered.values(), strict=True):
            assert np.array_equal(a[0], b[0]) == (look_a == look_b)
            assert np.array_equal(a[1], b[1]) == (sound_a == sound_b)
            assert a[2] == b[2]


def test_unknown_class_names_the_choices() -> None:
    with pytest.raises(ValueError, match=r"no class 'ball_hum'; the classes are ball_thud, ball_bell, "):
        render("ball_hum", 0)


# ---- nuisances ----


def test_nuisances_are_drawn_without_the_class() -> None:
    assert list(inspect.signature(draw_nuisances).parameters) == ["seed"]


def test_nuisances_of_a_set_are_independent_of_its_classes(tmp_path: Path) -> None:
    tasks = list(synthetic._plan(tmp_path, 0, {"train": 60}))
    assert len({task.seed for task in tasks}) == len(tasks)
    drawn = [flat(draw_nuisances(task.seed)) for task in tasks]
    for name in drawn[0]:
        groups = [[d[name] for d, t in zip(drawn, tasks, strict=True) if t.class_name == c] for c in CLASSES]
        assert len({value for group in groups for value in group}) > 1, f"{name} does not vary"
        assert kruskal(*groups).pvalue > 1e-4, name
    numbers = [int(task.path.stem) for task in tasks]
    assert sorted(numbers) == list(range(len(tasks)))
    groups = [[n for n, t in zip(numbers, tasks, strict=True) if t.class_name == c] for c in CLASSES]
    assert kruskal(*groups).pvalue > 1e-4, "file names"


def test_loudness_is_the_drawn_one_for_every_sound() -> None:
    for seed in range(12):
        nuisances = draw_nuisances(seed)
        for sound in SOUNDS:
            waveform = synthesise(sound, nuisances)
            assert waveform.dtype == np.float32
            assert waveform.shape == (round(nuisances.num_frames * SAMPLE_RATE / FPS),)
            assert np.abs(waveform).max() < 0.999, "clipped"
            level_db = 10 * np.log10(np.mean(np.square(waveform, dtype=np.float64)))
            assert level_db == pytest.approx(nuisances.level_db, abs=0.01)
    levels = [draw_nuisances(seed).level_db for seed in range(200)]
    assert max(levels) - min(levels) > 14


def test_the_picture_has_one_size_and_varied_length() -> None:
    lengths = set()
    for seed, look in enumerate(list(LOOKS) * 2):
        frames = draw_frames(look, draw_nuisances(seed))
        assert frames.dtype == np.uint8 and frames.shape[1:] == (FRAME_SIZE, FRAME_SIZE, 3)
        lengths.add(len(frames))
    assert len(lengths) > 3 and min(lengths) >= 2 * FPS and max(lengths) <= 3 * FPS


# ---- one cause ----


@pytest.mark.parametrize("sound", SOUNDS)
def test_sound_is_strongest_at_the_events(sound: str) -> None:
    for seed in range(4):
        nuisances = replace(draw_nuisances(seed), echo_gain=0.0)
        waveform = synthesise(sound, nuisances)
        since = (nuisances.phase + nuisances.rate_hz * np.arange(len(waveform)) / SAMPLE_RATE) % 1
        power = waveform.astype(float) ** 2
        at_event = power[(since < 0.15) | (since > 0.95)].mean()
        assert at_event > 2 * power[(since > 0.5) & (since < 0.7)].mean()


def test_movement_turns_at_the_events() -> None:
    """The ball is lowest, the pendulum farthest out and the clapper closed where the phase is whole."""
    still = replace(
        draw_nuisances(0), grain=0.0, drift=(0.0, 0.0), tilt_rad=0.0, centre=(0.0, 0.0), ripple=(0, 0, 0, 0),
        gradient=(0.0, 0.0), phase=0.0, rate_hz=3.0, num_frames=36,
    )  # fmt: skip
    background = np.array(still.background_colour) * 255 * still.brightness
    column, row = np.meshgrid(np.arange(FRAME_SIZE), np.arange(FRAME_SIZE))
    extent = {}
    for look in ("ball", "pendulum", "clapper"):
        seen = np.abs(draw_frames(look, still) - background).sum(-1) > 30
        off_middle = np.abs(column - (FRAME_SIZE - 1) / 2)
        measured = {"ball": row, "pendulum": off_middle, "clapper": -off_middle}[look]
        extent[look] = (seen * measured).sum((1, 2)) / seen.sum((1, 2))
    for look, values in extent.items():
        events = np.arange(36) % 4 == 0  # 3 events a second at 12 frames a second
        assert values[events].min() > values[~events].max(), look


# ---- no back door, and yet there is evidence ----


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """Simple measurements of 320 recordings, 40 a class."""
    path = tmp_path_factory.mktemp("sample") / "clip.mp4"
    rows = []
    for seed in range(320):
        class_name = CLASSES[seed % len(CLASSES)]
        frames, waveform, nuisances = render(class_name, seed)
        encode_clip(path, frames, waveform, fps=FPS, sample_rate=SAMPLE_RATE, crf=nuisances.crf)
        blocks = waveform[: len(waveform) // 512 * 512].reshape(-1, 512)
        spectrum = np.abs(np.fft.rfft(blocks * np.hanning(512))) ** 2
        bands = np.log([band.mean(1) + 1e-9 for band in np.array_split(spectrum[:, 1:], 16, axis=1)])
        rows.append(
            {
                "class": seed % len(CLASSES),
                "mean colour": frames.mean((0, 1, 2)),
                "loudness": 20 * np.log10(np.sqrt(np.mean(waveform**2))),
                "peak": 20 * np.log10(np.abs(waveform).max()),
                "file size": path.stat().st_size,
                "duration": len(frames) / FPS,
                "spectrum": np.concatenate([bands.mean(1) - bands.mean(), bands.std(1)]),
            }
        )
    return {name: np.stack([np.atleast_1d(row[name]) for row in rows]) for name in rows[0]}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mean colour", "loudness", "peak", "file size", "duration"])
def test_no_back_door(sample: dict[str, np.ndarray], name: str) -> None:
    values = (sample[name] - sample[name].mean(0)) / sample[name].std(0)
    clusters = KMeans(8, n_init=10, random_state=0).fit_predict(values)
    # Adjusted for chance, which alone gives NMI 0.04 on so few recordings.
    assert adjusted_mutual_info_score(sample["class"].ravel(), clusters) < 0.1


@pytest.mark.slow
def test_the_sounds_are_easy_to_tell_apart(sample: dict[str, np.ndarray]) -> None:
    """Nearest class mean of simple spectra, fitted on one half, names the sounds of the other."""
    sounds = np.array([PAIRS[index][1] for index in sample["class"].ravel()])
    spectra = sample["spectrum"] / sample["spectrum"].std(0)
    half = len(spectra) // 2
    names = sorted(SOUNDS)
    means = np.stack([spectra[:half][sounds[:half] == name].mean(0) for name in names])
    nearest = np.linalg.norm(spectra[half:, None] - means, axis=-1).argmin(1)
    assert np.mean(np.array(names)[nearest] == sounds[half:]) >= 0.95


# ---- the set on disk ----


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "whole"
    generate(root, seed=5, clips_per_class=COUNTS, workers=1, progress=False)
    return root


def test_layout(whole: Path) -> None:
    files = set(files_of(whole))
    description = json.loads((whole / "dataset.json").read_text())
    assert description["version"] == synthetic.GENERATOR_VERSION
    assert description["seed"] == 5 and description["clips_per_class"] == COUNTS
    clips = [Path(name) for name in files - {"dataset.json"}]
    assert Counter(clip.parts[:-1] for clip in clips) == Counter(
        {(split, name): num for split, num in COUNTS.items() for name in CLASSES}
    )
    assert all(clip.suffix == ".mp4" and clip.stem.isdigit() for clip in clips)


def test_rebuild_in_other_processes_is_byte_identical(whole: Path, tmp_path: Path) -> None:
    generate(tmp_path / "again", seed=5, clips_per_class=COUNTS, workers=2, progress=False)
    assert files_of(tmp_path / "again") == files_of(whole)


def test_another_seed_gives_another_set(whole: Path, tmp_path: Path) -> None:
    generate(tmp_path, seed=6, clips_per_class={"test": 1}, progress=False)
    clips = {data for name, data in files_of(tmp_path).items() if name.endswith(".mp4")}
    assert len(clips) == len(CLASSES)
    assert not clips & set(files_of(whole).values())


def test_an_interrupted_call_goes_on(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = synthetic._write_recording, []

    def write_seven(task: synthetic._Task) -> None:
        if len(written) == 7:
            raise KeyboardInterrupt
        write(task)
        written.append(task.path)

    monkeypatch.setattr(synthetic, "_write_recording", write_seven)
    with pytest.raises(KeyboardInterrupt):
        generate(tmp_path, seed=5, clips_per_class=COUNTS, progress=False)
    assert not (tmp_path / "dataset.json").exists()
    with pytest.raises(UsageError, match="seed = 5, not 6"):
        generate(tmp_path, seed=6, clips_per_class=COUNTS, progress=False)
    monkeypatch.setattr(synthetic, "_write_recording", write)
    before = {path: path.stat().st_mtime_ns for path in written}
    generate(tmp_path, seed=5, clips_per_class=COUNTS, progress=False)
    assert {path: path.stat().st_mtime_ns for path in written} == before
    assert files_of(tmp_path) == files_of(whole)


def test_a_removed_recording_comes_back_equal(whole: Path) -> None:
    before = files_of(whole)
    next((whole / "train" / CLASSES[3]).iterdir()).unlink()
    generate(whole, seed=5, clips_per_class=COUNTS, progress=False)
    assert files_of(whole) == before


@pytest.mark.parametrize(
    ("seed", "counts", "message"),
    [(6, COUNTS, "seed = 5, not 6"), (5, {"train": 3}, r"clips_per_class = \{.*\}, not \{'train': 3\}")],
)
def test_other_settings_are_refused(whole: Path, seed: int, counts: dict[str, int], message: str) -> None:
    before = files_of(whole)
    with pytest.raises(UsageError, match=message + ".*: remove the folder, choose another one"):
        generate(whole, seed=seed, clips_per_class=counts, progress=False)
    assert files_of(whole) == before


def test_another_version_is_refused(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "GENERATOR_VERSION", synthetic.GENERATOR_VERSION + 1)
    with pytest.raises(UsageError, match="version = "):
        generate(whole, seed=5, clips_per_class=COUNTS, progress=False)


def test_foreign_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "holiday.mp4").write_bytes(b"precious")
    with pytest.raises(UsageError, match="choose another one"):
        generate(tmp_path, clips_per_class={"train": 1}, progress=False)
    with pytest.raises(UsageError, match="choose another one"):
        generate(tmp_path / "holiday.mp4", clips_per_class={"train": 1}, progress=False)
    assert files_of(tmp_path) == {"holiday.mp4": b"precious"}
    (tmp_path / "holiday.mp4").rename(tmp_path / "dataset.json")
    with pytest.raises(UsageError, match="does not describe a generated set"):
        generate(tmp_path, clips_per_class={"train": 1}, progress=False)


def test_the_generator_imports_no_torch() -> None:
    """Its worker processes start in a moment."""
    code = "import sys, datamodules.synthetic; sys.exit('torch' in sys.modules)"
    root = Path(synthetic.__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
