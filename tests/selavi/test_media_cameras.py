"""Files with several pictures, and modalities that see one each."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from datamodules.clips import prepare_manifest
from datamodules.index.scan import scan
from datamodules.loading.dataset import ClipDataset
from datamodules.loading.sampling import ViewKey
from selavi.config import load_config
from selavi.errors import UsageError
from selavi.media import decode_clip
from selavi.modalities import Request, reads_part, request_of_media, requests_of, require_mixed

TWO = ("modalities={front: video, back: video}", "front.stream=0", "back.stream=1", "video.decode_size=16")
FPS, LATE_S = 10, 0.5


def write(path: Path, num_cameras: int) -> Path:
    """Three seconds: the first camera gets brighter from frame to frame, the second, which begins late, darker."""
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("libx264", rate=FPS) for _ in range(num_cameras)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            stream.options, stream.codec_context.time_base = {"crf": "10"}, Fraction(1, FPS)
        for number in range(3 * FPS):
            for camera, stream in enumerate(streams):
                shade = level(camera, number / FPS)
                if camera and number < LATE_S * FPS:
                    continue
                frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), shade, np.uint8), format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, FPS)
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    return path


def level(camera: int, time_s: float) -> int:
    return round(250 - 60 * time_s if camera else 30 + 60 * time_s)


def shades(path: Path, stream: int) -> list[float] | None:
    frames, _ = decode_clip(path, 1.0, 1.0, num_frames=5, size=16, offset=0.5, sample_rate=0, stream=stream)
    return None if frames is None else frames.mean((1, 2, 3)).tolist()


@pytest.mark.parametrize("name", ["two.mkv", "two.mp4", "two.ts"])
def test_each_camera_is_seen_at_the_time_of_the_main_one(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, 2)
    times_s = 1 + np.arange(5) / 5
    for stream, camera in ((-1, 0), (0, 0), (1, 1)):
        assert shades(path, stream) == pytest.approx([level(camera, time_s) for time_s in times_s], abs=4)
    assert shades(path, 2) is None


def test_a_clip_lacks_the_camera_that_its_file_does_not_have(tmp_path: Path) -> None:
    for number, name in enumerate(("one.mkv", "two.mkv")):
        write(tmp_path / name, number + 1)
    config = load_config(None, [*TWO, f"data.root={tmp_path}", f"data.cache_dir={tmp_path / 'cache'}"])
    rows = scan(tmp_path, tmp_path / "cache", workers=1)
    dataset = ClipDataset(rows, config, num_views=1)
    one, two = (dataset[ViewKey(row, "eval", 0)] for row in range(2))
    assert one.present == {"front": True, "back": False} and two.present == {"front": True, "back": True}
    assert two.inputs["front"].float().mean() < 140 < two.inputs["back"].float().mean()


def test_cameras_are_read_one_by_one_and_never_decoded_ahead() -> None:
    config = load_config(None, [*TWO, "data.cache_gb=1"])
    assert requests_of(config, ["front", "back"]) == {
        Request(30, 16, stream=0): ["front"],
        Request(30, 16, stream=1): ["back"],
    }
    heard = load_config(None, ["modalities={front: video, back: video, near: audio}", *TWO[1:]])
    (with_sound, alone) = requests_of(heard, ["front", "back", "near"])
    assert with_sound.sample_rate and not alone.sample_rate
    assert reads_part(config, "back") and not reads_part(heard, "near")
    assert request_of_media(config).stream == -1
    with pytest.raises(UsageError, match="front reads a channel or a picture stream of its own: read the files"):
        require_mixed(config)


@pytest.mark.parametrize("own", [TWO, ("modalities={near: audio, far: audio}", "near.channel=0", "far.channel=1")])
def test_nothing_is_decoded_ahead_for_a_part_of_a_file(
    demo_set: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, own: tuple[str, ...]
) -> None:
    words = [f"data.root={demo_set}", f"data.cache_dir={tmp_path}", "data.cache_gb=1", "heads.num_clusters=4"]
    _, media = prepare_manifest(load_config(None, [*own, *words]))
    assert media is None
    assert "what is decoded ahead has one picture, and its channels mixed" in caplog.text
