"""Still pictures of every kind that people have, and some that nobody should open."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from selavi.media import (
    Limits,
    MediaError,
    decode_clip,
    decode_frames_at,
    decode_recording,
    decode_sound,
    probe,
    probe_picture,
)
from selavi.media.stills import GROUND, LONGEST, read_still

WITHOUT_LIMIT = float("inf")
RED, GREEN, BLUE, YELLOW = (230, 20, 20), (20, 200, 20), (20, 20, 230), (230, 230, 20)


def quarters(width: int = 48, height: int = 32) -> Image.Image:
    """Red, green above; blue, yellow below: every turn and every mirror of it is another picture."""
    picture = Image.new("RGB", (width, height), RED)
    for box, colour in (((1, 0), GREEN), ((0, 1), BLUE), ((1, 1), YELLOW)):
        picture.paste(colour, (box[0] * width // 2, box[1] * height // 2, width, height))
        if box == (0, 1):
            picture.paste(GREEN, (width // 2, 0, width, height // 2))
    return picture


def corners(pixels: np.ndarray) -> list[tuple[int, ...]]:
    """The nearest of the four colours in each quarter, from the upper left, row by row."""
    height, width = pixels.shape[:2]
    known = np.array([RED, GREEN, BLUE, YELLOW])
    middles = [pixels[y * height // 4, x * width // 4].astype(int) for y in (1, 3) for x in (1, 3)]
    nearest = [int(np.abs(known - middle).sum(1).argmin()) for middle in middles]
    assert all(np.abs(known[n] - middle).max() < 30 for n, middle in zip(nearest, middles, strict=True))
    return [(RED, GREEN, BLUE, YELLOW)[number] for number in nearest]


def read(path: Path, short_side: int = 16, limits: Limits = Limits()) -> np.ndarray:  # noqa: B008
    return read_still(path, short_side, limits, WITHOUT_LIMIT)


def fault(path: Path, limits: Limits = Limits()) -> MediaError:  # noqa: B008
    """The same from the probe and from reading."""
    with pytest.raises(MediaError) as probed:
        probe(path, limits)
    with pytest.raises(MediaError) as read_:
        read(path, limits=limits)
    assert probed.value.reason == read_.value.reason
    return probed.value


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tiff", "tif", "JPEG"])
def test_a_picture_is_a_recording_of_one_frame(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture.{suffix}"
    quarters().save(path)
    info = probe(path)
    assert (info.width, info.height, info.duration_s, info.audio_state, info.timing) == (48, 32, 0.0, "absent", "still")
    whole = read(path)
    assert whole.shape == (16, 24, 3) and corners(whole) == [RED, GREEN, BLUE, YELLOW]
    recording = decode_recording(path, size=16, sample_rate=8000)
    np.testing.assert_array_equal(recording.frames, whole[None])
    assert recording.times_s.tolist() == [0.0] and recording.waveform.size == 0 and not recording.audio_fault
    np.testing.assert_array_equal(decode_frames_at(path, [0.0, 0.0], 16), np.stack([whole, whole]))
    frames, waveform = decode_clip(path, 0.0, 1.0, num_frames=1, size=16, offset=1.0, sample_rate=8000)
    np.testing.assert_array_equal(frames, whole[None, :, 8:])
    assert waveform is None and decode_sound(path, sample_rate=8000).size == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_exif_makes_it_upright(tmp_path: Path, suffix: str, orientation: int) -> None:
    turns = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,  # stored so that a turn by 270 degrees makes it upright
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = quarters().transpose(turns[orientation]) if orientation > 1 else quarters()
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    stored.save(path, exif=exif)
    info = probe(path)
    assert (info.width, info.height) == (48, 32)
    assert read(path).shape == (16, 24, 3) and corners(read(path)) == [RED, GREEN, BLUE, YELLOW]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "YCbCr", "LAB"])
def test_colours_of_every_kind(tmp_path: Path, mode: str) -> None:
    suffix = {"CMYK": "tiff", "YCbCr": "tiff", "LAB": "tiff"}.get(mode, "png")
    path = tmp_path / f"{mode}.{suffix}"
    if mode == "LAB":
        Image.new("LAB", (48, 32), (120, 150, 90)).save(path)
        assert fault(path).reason == "refused" and "LAB" in str(fault(path))
        return
    quarters().convert(mode).save(path)
    assert corners(read(path)) == [RED, GREEN, BLUE, YELLOW]


def test_cmyk_of_a_jpeg(tmp_path: Path) -> None:
    quarters().convert("CMYK").save(tmp_path / "print.jpg", quality=95)
    assert corners(read(tmp_path / "print.jpg")) == [RED, GREEN, BLUE, YELLOW]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_are_scaled_not_cut(tmp_path: Path, suffix: str) -> None:
    levels = np.repeat(np.linspace(0, 65535, 32).astype(np.uint16)[None], 32, 0)
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(levels).save(path)
    grey = read(path, 32)[..., 0]
    np.testing.assert_array_equal(grey, (levels >> 8).astype(np.uint8))


def test_sixteen_bits_a_colour(tmp_path: Path) -> None:
    colours = np.array([[[65535, 0, 0], [0, 65535, 0]], [[0, 0, 65535], [32768, 32768, 32768]]], ">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in colours)
    header = struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    path = tmp_path / "deep.png"
    path.write_bytes(png((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")))
    expected = [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [128, 128, 128]]]
    assert read(path, 2).tolist() == expected


def test_levels_without_a_known_range_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 70000, np.int32)).save(tmp_path / "whole.tiff")
    assert "numbers from 70000 to 70000 where 0 to 65535 was expected" in fault(tmp_path / "whole.tiff").detail
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(tmp_path / "nan.tiff")
    assert fault(tmp_path / "nan.tiff").reason == "refused"
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(tmp_path / "share.tiff")
    assert set(read(tmp_path / "share.tiff", 8).ravel().tolist()) == {128}


def test_transparency_is_seen_as_neutral_ground(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (32, 32), (255, 255, 255, 0))
    clear.paste((*RED, 255), (0, 0, 16, 32))
    clear.save(tmp_path / "alpha.png")
    clear.save(tmp_path / "alpha.webp", lossless=True)
    palette = Image.new("P", (32, 32), 1)
    palette.putpalette([*RED, 255, 255, 255])
    palette.paste(0, (0, 0, 16, 32))
    palette.save(tmp_path / "palette.png", transparency=1)
    for name in ("alpha.png", "alpha.webp", "palette.png"):
        pixels = read(tmp_path / name, 32)
        assert tuple(pixels[16, 4]) == RED and tuple(pixels[16, 28]) == GROUND, name
    grey = Image.new("L", (32, 32), 200)
    grey.save(tmp_path / "grey.png", transparency=200)
    assert set(read(tmp_path / "grey.png").ravel().tolist()) == {GROUND[0]}


def test_one_pixel_and_very_long_ones(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), RED).save(tmp_path / "one.png")
    assert read(tmp_path / "one.png").shape == (16, 16, 3) and tuple(read(tmp_path / "one.png")[8, 8]) == RED
    long = Image.new("RGB", (20_000, 1), GREEN)
    long.paste(RED, (9_990, 0, 10_010, 1))
    long.save(tmp_path / "long.png")
    pixels = read(tmp_path / "long.png")
    assert pixels.shape == (16, 16 * LONGEST, 3) and tuple(pixels[8, 64]) == RED


def test_the_first_picture_of_a_gif(tmp_path: Path) -> None:
    first, second = quarters(), Image.new("RGB", (48, 32), BLUE)
    first.save(tmp_path / "moves.gif", save_all=True, append_images=[second] * 9, duration=100)
    info = probe_picture(tmp_path / "moves.gif")
    assert (info.duration_s, info.timing, info.width) == (0.0, "still", 48)
    assert probe(tmp_path / "moves.gif").duration_s == pytest.approx(1.0)
    frames, _ = decode_clip(tmp_path / "moves.gif", 0.0, 1.0, num_frames=1, size=32, offset=0.5, sample_rate=0)
    assert corners(decode_frames_at(tmp_path / "moves.gif", [0.0], 16)[0]) == [RED, GREEN, BLUE, YELLOW]
    assert frames.shape == (1, 32, 32, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "tiff"])
def test_half_a_file_is_no_picture(tmp_path: Path, suffix: str) -> None:
    whole = tmp_path / f"whole.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(whole)
    half = tmp_path / f"half.{suffix}"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    assert fault(half).reason in ("corrupt", "not_media")


def test_what_is_no_picture(tmp_path: Path) -> None:
    (tmp_path / "page.jpg").write_text("<!DOCTYPE html><html><title>404</title></html>")
    (tmp_path / "nothing.png").touch()
    (tmp_path / "program.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n")
    (tmp_path / "folder.png").mkdir()
    assert fault(tmp_path / "page.jpg").reason == "not_media"
    assert fault(tmp_path / "program.png").reason == "not_media"
    assert fault(tmp_path / "nothing.png").reason == "empty"
    assert fault(tmp_path / "gone.png").reason == "vanished"
    assert fault(tmp_path / "folder.png").reason == "refused"


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file of chunks."""
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_bombs_are_refused_by_their_header(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    (tmp_path / "bomb.png").write_bytes(png((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000))))
    assert fault(tmp_path / "bomb.png").reason == "refused"
    quarters().save(tmp_path / "over.png")
    assert "48 x 32 pixels, the limit is 1,000" in fault(tmp_path / "over.png", Limits(picture_pixels=1000)).detail
    text = zlib.compress(b"x" * (80 << 20))
    small = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    pixel = zlib.compress(b"\0\1\2\3")
    bomb = png((b"IHDR", small), (b"zTXt", b"k\0\0" + text), (b"IDAT", pixel), (b"IEND", b""))
    (tmp_path / "text.png").write_bytes(bomb)
    assert fault(tmp_path / "text.png").reason == "corrupt"


def test_damaged_exif_leaves_the_picture(tmp_path: Path) -> None:
    quarters().save(tmp_path / "odd.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff", quality=95)
    assert corners(read(tmp_path / "odd.jpg")) == [RED, GREEN, BLUE, YELLOW]


def test_it_may_take_too_long(tmp_path: Path) -> None:
    quarters(800, 800).save(tmp_path / "slow.png")
    with pytest.raises(MediaError, match="timeout"):
        probe(tmp_path / "slow.png", deadline_s=0.0)
