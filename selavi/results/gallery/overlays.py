"""Overlays that show where the evidence for a cluster lies: transparent pictures of a thumbnail's geometry."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image

from selavi.atomic import write_atomically
from selavi.results.evidence import Evidence
from selavi.results.gallery.thumbnails import Geometry

_OPAQUE = 190
"""Opacity of the strongest evidence, of 255: it still lets the picture through."""
_WEAK, _STRONG = np.array([255, 221, 64]), np.array([230, 30, 60])
_STRENGTHS = np.arange(256)[:, None] / 255
_COLOURS = np.rint(_WEAK + (_STRONG - _WEAK) * _STRENGTHS).astype(np.uint8).tobytes()
_OPACITIES = np.rint(_OPAQUE * _STRENGTHS).astype(np.uint8).tobytes()
"""The palette: an entry for each strength of the evidence."""


def overlay_name(evidence: Evidence, kind: str) -> str:
    """A file name that changes with what is drawn; `kind` is what else that depends on."""
    digest = hashlib.sha256(f"{evidence.id}\x1f{kind}".encode())
    for values in (evidence.levels("video"), evidence.levels("audio")):
        digest.update(b"-" if values is None else f"{values.shape}".encode() + values.tobytes())
    return digest.hexdigest()[:24]


def draw_overlay(path: Path, evidence: Evidence, geometry: Geometry, width: int, height: int) -> None:
    """Write an overlay as a PNG with a palette of 256 strengths, unless it is there already.

    Args:
        path: file to write.
        evidence: what is drawn.
        geometry: of the thumbnail that it lies on.
        width: of the recording's picture, to find its place within a frame; 0 where it is not known.
        height: of that picture; 0 where it is not known.
    """
    if path.exists():
        return
    strength = Image.new("L", geometry.size)
    pictures, sound = evidence.levels("video"), evidence.levels("audio")
    if pictures is not None and geometry.frames:
        for index, values in enumerate(pictures[: geometry.frames]):
            box = geometry.frame_box(index, width or geometry.width, height or geometry.height)
            strength.paste(_grown(values, box), box[:2])
    if sound is not None and geometry.spectrogram:
        box = geometry.spectrogram_box
        strength.paste(_grown(sound[::-1], box), box[:2])
    picture = Image.frombytes("P", strength.size, strength.tobytes())
    picture.putpalette(_COLOURS)
    with write_atomically(path) as temporary:
        picture.save(temporary, "PNG", transparency=_OPACITIES)


def _grown(values: np.ndarray, box: tuple[int, int, int, int]) -> Image.Image:
    size = (box[2] - box[0], box[3] - box[1])
    return Image.fromarray(np.ascontiguousarray(values)).resize(size, Image.Resampling.BICUBIC)
