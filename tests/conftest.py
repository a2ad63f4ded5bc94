"""What several tests share: a tiny generated set, settings that train on it in seconds, odd files."""

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

import selavi
from datamodules.synthetic import generate
from selavi.config import Config, load_config
from selavi.media import encode_clip

torch.set_num_threads(1)  # the models are tiny, and the machine may have one core to spare

hypothesis.settings.register_profile("selavi", deadline=None)  # no test depends on how busy the machine is
hypothesis.settings.load_profile("selavi")

# Tests run in the background (`make test &`) ignore Ctrl-C, and so would the processes that they interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name a test by its bytes only where they are text.

    What gzip writes holds the second of the day, and processes that collect the tests side by side must find the same.
    """
    if isinstance(val, bytes) and not (val.isascii() and val.decode("ascii").isprintable()):
        return argname
    return None


TINY = """\
data: {num_workers: 0, scan_workers: 1, max_bad_fraction: 0.2, cache_gb: 1}
video: {num_frames: 2, decode_size: 32, size: 24, crop_fraction: [0.7, 1.0]}
audio: {sample_rate: 8000, num_mels: 32, num_fft: 256, window_s: 0.032, hop_s: 0.016, tone_jitter: 0.5}
encoders: {video_width: 4, video_depth: 10, audio_width: 8}
heads: {num_heads: 2, num_clusters: 8, dropout: 0.1}
labelling: {first: random, marginal: uniform, num_labellings: 4, head_groups: 2, batch_size: 16, warmup_batches: 2}
optim: {batch_size: 8, lr: 0.05, lr_clips: 8, warmup_epochs: 1}
trainer: {max_epochs: 2, accelerator: cpu, log_every_n_steps: 1}
"""


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared(repository: Path) -> Path:
    """Test data that is not distributed; a test that needs it skips where it is not there."""
    return Path(os.environ.get("SELAVI_TESTDATA", repository.parent / "shared"))


@pytest.fixture(scope="session")
def demo_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight classes of four training and two test clips.  Nobody writes here."""
    root = tmp_path_factory.mktemp("demo_set") / "media"
    generate(root, seed=5, clips_per_class={"train": 4, "test": 2}, progress=False)
    return root


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scans and decoded media of `demo_set`, made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def tiny_yaml(tmp_path_factory: pytest.TempPathFactory, demo_set: Path, cache_dir: Path) -> Path:
    """Settings of a run of seconds on `demo_set`."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY.replace("data: {", f"data: {{root: {demo_set}, cache_dir: {cache_dir}, "), encoding="utf-8")
    return path


@pytest.fixture
def tiny(tiny_yaml: Path, tmp_path: Path) -> Callable[..., Config]:
    """`tiny("section.key=value", ...)`: the settings of `tiny_yaml` with changes, for a run below tmp_path."""
    return lambda *overrides: load_config(tiny_yaml, [f"run_dir={tmp_path / 'run'}", *overrides])


@pytest.fixture
def fit(tiny_yaml: Path) -> Callable[..., int]:
    """`fit(folder, "section.key=value", ...)` runs tools/train.py in this process."""
    from tools import train

    return lambda folder, *overrides: train.main(["--config", str(tiny_yaml), f"run_dir={folder}", *overrides])


@pytest.fixture(scope="session")
def moving_square() -> np.ndarray:
    """(36, 32, 48, 3) uint8: the left edge of a bright square is at column `frame number`."""
    frames = np.full((36, 32, 48, 3), 40, dtype=np.uint8)
    for index in range(36):
        frames[index, 8:24, index : index + 8] = (230, 120, 60)
    return frames


@pytest.fixture(scope="session")
def chirp() -> np.ndarray:
    """(24000,) float32 at 8 kHz, 3 s: a tone that rises, so that every moment sounds different."""
    t = np.arange(24_000) / 8000
    return (0.5 * np.sin(2 * np.pi * (200 + 250 * t) * t)).astype(np.float32)


@pytest.fixture(scope="session")
def media(tmp_path_factory: pytest.TempPathFactory, moving_square: np.ndarray, chirp: np.ndarray) -> Path:
    """A folder of plain.mp4, mute.mp4 (no sound track), silent.mp4, short_sound.mp4 and bad files."""
    folder = tmp_path_factory.mktemp("odd_media")
    for name, waveform in (
        ("plain", chirp),
        ("mute", None),
        ("silent", np.zeros(24_000, np.float32)),
        ("short_sound", chirp[:12_000]),
    ):
        encode_clip(folder / f"{name}.mp4", moving_square, waveform, fps=12, sample_rate=8000)
    whole = (folder / "plain.mp4").read_bytes()
    (folder / "empty.mp4").touch()
    (folder / "text.mp4").write_text("<html>404 not found</html>\n" * 20)
    (folder / "truncated.mp4").write_bytes(whole[: len(whole) // 3])
    return folder


@pytest.fixture(scope="session")
def finished_run(tiny_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs on `demo_set`.  Tests that write into it copy it first."""
    from tools import train

    folder = tmp_path_factory.mktemp("finished") / "run"
    assert train.main(["--config", str(tiny_yaml), f"run_dir={folder}"]) == 0
    return folder


QUICK = {
    "video.num_frames": 2,
    "video.decode_size": 32,
    "video.size": 24,
    "audio.sample_rate": 8000,
    "audio.num_mels": 32,
    "audio.num_fft": 256,
    "encoders.video_width": 4,
    "encoders.audio_width": 8,
    "heads.num_heads": 2,
    "labelling.first": "random",
    "labelling.num_labellings": 2,
    "labelling.warmup_batches": 2,
    "optim.batch_size": 8,
    "trainer.max_epochs": 2,
}


@pytest.fixture(scope="session")
def quick() -> dict[str, object]:
    """Settings with which selavi.label takes seconds."""
    return QUICK


@pytest.fixture(scope="session")
def videos(demo_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `videos` of 48 clips without class folders.  Nobody writes here."""
    folder = tmp_path_factory.mktemp("unlabelled") / "videos"
    folder.mkdir()
    for number, path in enumerate(sorted(demo_set.rglob("*.mp4"))):
        shutil.copy(path, folder / f"{number:03}.mp4")
    return folder


@pytest.fixture(scope="session")
def labelled_run(videos: Path, quick: dict[str, object]) -> Path:
    """`runs/videos` beside `videos`, as selavi.label("videos", num_clusters=20) leaves it.  Nobody writes here."""
    run = videos.parent / "runs" / "videos"
    cached = {"data.cache_dir": str(videos.parent / ".selavi-cache")}
    selavi.label(videos, num_clusters=20, out=run, settings=quick | cached)
    return run


@pytest.fixture
def beside_videos(videos: Path, labelled_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with `videos`, `new.mp4` and the finished `runs/videos`, where examples of the docs run."""
    shutil.copytree(videos.parent, tmp_path, dirs_exist_ok=True)
    shutil.copy(videos / "000.mp4", tmp_path / "new.mp4")
    plan = tmp_path / "runs" / "videos" / "label.json"
    plan.write_text(plan.read_text().replace(str(videos.parent), str(tmp_path)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Trap:
    """Touches a file when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self.sprung = sprung

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.sprung,)


@pytest.fixture
def trap() -> Callable[[Path], object]:
    """`trap(path)` touches the path when it is unpickled."""
    return Trap
