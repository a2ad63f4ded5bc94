"""A gallery of made-up clips of any number, written by the real writers: for browser tests and benchmarks.

PYTHONPATH=. python tests/selavi/results/gallery/synthetic_gallery.py OUT [--num-clips 180000] [--hostile]
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from selavi.filesystem import look
from selavi.results.evidence import Evidence, EvidenceMap
from selavi.results.gallery.build import AboutRun, GalleryReport, MediaSource, write_gallery
from selavi.results.gallery.select import Head
from selavi.results.gallery.thumbnails import SAMPLE_RATE, Geometry, ThumbnailJob

HOSTILE = [
    '"><img src=x onerror=alert(1)>',
    "<script>alert(1)</script><!-- ",
    "</script><script>alert(1)</script>",
    "'quote' onmouseover='x",
    "#?&=%20;",
    "%2e%2e/inside",
    "{{ 7 * 7 }}",
    "🎺 trumpet",
    "-dash",
    "=cmd|' /C calc'!A0",
    "javascript:alert(1)",
    "back\\slash",
    "new\nline\ttab\x07bell",
    "\u202egpm.4\u2028\u2029",
    "x" * 240,
    "__proto__",
]
WORDS = ["dog", "cat", "rain", "train", "piano", "drum", "bird", "engine", "surf", "laugh", "bell", "siren"]
WORDS += ["goat", "choir", "saw", "fire"]


def evidence_of(clip_id: str, video: np.ndarray | None, audio: np.ndarray | None) -> Evidence:
    """Evidence of which only what is drawn matters."""
    maps = {
        name: EvidenceMap(levels, 1.0) for name, levels in (("video", video), ("audio", audio)) if levels is not None
    }
    return Evidence(clip_id, 0, 0.0, np.zeros(4), maps)


def synthetic_clips(num_clips: int, num_clusters: int, num_heads: int = 2, *, hostile: bool = False, seed: int = 0):
    """Clips and heads as select.arrange gives them, and (N, 16) features: a blob for each cluster of head 0."""
    rng = np.random.default_rng(seed)
    sizes = np.arange(1, num_clusters + 1) ** -0.5
    kinds = rng.choice(num_clusters, num_clips, p=sizes / sizes.sum())
    kinds[:num_clusters] = np.arange(num_clusters)[: len(kinds)]
    names = [f"{WORDS[kind % 16]} {kind // 16}" for kind in range(num_clusters)]
    if hostile:
        names = [f"{HOSTILE[kind % 16]} {kind // 16 or ''}" for kind in range(num_clusters)]
    stems = [HOSTILE[i % 16] if hostile else f"{WORDS[kind % 16]}_take" for i, kind in enumerate(kinds.tolist())]
    ids = sorted((f"{i // 1000:04d}/{i:07d}_{stem}.mp4" for i, stem in enumerate(stems)), key=str.encode)
    labels = [names[kind] if i % 5 else None for i, kind in enumerate(kinds.tolist())]
    clips = pa.table(
        {
            "id": pa.array(ids, pa.string()),
            "start_s": np.zeros(num_clips),
            "path": pa.array(ids, pa.string()),
            "label": pa.array(labels, pa.string()),
            "duration_s": np.full(num_clips, 10.0),
            "fps": np.full(num_clips, 12.0),
            "width": pa.array(np.full(num_clips, 320), pa.int32()),
            "height": pa.array(np.full(num_clips, 240), pa.int32()),
            "audio_state": pa.array(["ok"] * num_clips),
            "bytes": np.arange(num_clips) + 1000,
            "mtime_ns": np.ones(num_clips, np.int64),
        }
    )
    heads = []
    for number in range(num_heads):
        wrong = rng.random(num_clips) < 0.1 * (1 + number)
        cluster = np.where(wrong, rng.integers(num_clusters, size=num_clips), kinds).astype(np.int32)
        confidence = rng.beta(6, 2, num_clips).astype(np.float32)
        margin, entropy = confidence * 0.9, 2 * (1 - confidence)
        agreement = rng.random(num_clips).astype(np.float32)
        agreement[rng.random(num_clips) < 0.01] = np.nan
        heads.append(Head(number, cluster, confidence, margin, entropy, agreement))
    centres = rng.normal(size=(num_clusters, 16))
    features = (centres[kinds] + 0.3 * rng.normal(size=(num_clips, 16))).astype(np.float16)
    return clips, heads, features


def draw_made_up(job: ThumbnailJob, geometry: Geometry) -> tuple[Sequence[np.ndarray], np.ndarray]:
    """A Reader without files: a moving square of the clip's own colour, and a tone of its own."""
    hue = Image.new("HSV", (1, 1), (job.row * 37 % 256, 160, 200)).convert("RGB").getpixel((0, 0))
    frames = []
    for index in range(geometry.frames):
        frame = np.full((120, 160, 3), 40, np.uint8)
        frame[30:90, 20 + 25 * index : 60 + 25 * index] = hue
        frames.append(frame)
    time_s = np.arange(SAMPLE_RATE // 2) / SAMPLE_RATE
    tone = np.sin(2 * np.pi * (200 + job.row % 40 * 100) * time_s) * np.linspace(0, 1, len(time_s))
    return frames, (12_000 * tone).astype(np.int16)


def write_synthetic_gallery(
    out_dir: Path,
    num_clips: int = 180_000,
    num_clusters: int = 300,
    hostile: bool = False,
    *,
    num_heads: int = 2,
    thumbnails: bool = False,
    media_root: Path | None = None,
    bare: bool = False,
) -> GalleryReport:
    """Write a gallery of clips that do not exist.

    Args:
        out_dir: the gallery's folder.
        num_clips: N.
        num_clusters: of each head.
        hostile: ids, labels and names that try to leave their strings.
        num_heads: H.
        thumbnails: draw them (about a minute for 300 clusters and one head).
        media_root: where media would be; what lies there under a clip's path is linked.
        bare: no labels, frame rates or features, one modality, nothing measured: all that a page may have to do
            without.
    """
    clips, heads, features = synthetic_clips(num_clips, num_clusters, num_heads, hostile=hostile)
    if bare:
        clips = clips.drop_columns("fps")
        clips = clips.set_column(clips.column_names.index("label"), "label", pa.nulls(num_clips, pa.string()))
        heads = [replace(head, agreement=np.full(num_clips, np.nan, np.float32)) for head in heads]
    title = f"{HOSTILE[2]} synthetic" if hostile else "synthetic, train"
    names = [{"head": 0, "cluster": 0, "id": None, "name": HOSTILE[2], "into": None, "rejected": False}]
    about = AboutRun(
        title=title,
        run="runs/synthetic",
        split="train",
        chosen_head=0,
        figures=[] if bare else [("NMI", "0.912"), ("Clips scored", f"{num_clips:,}")],
        names=names if hostile else [],
        agreement_of_heads=[None if bare else 0.9 - 0.1 * head.head for head in heads],
        no_map="left out (--map none)" if bare else None,
    )
    if media_root is not None:
        clips = _as_they_are(clips, media_root)
    source = MediaSource(media_root or out_dir / "no-media", read=draw_made_up if thumbnails else None)
    return write_gallery(out_dir, clips, heads, about, source, features=None if bare else features)


def _as_they_are(clips: pa.Table, root: Path) -> pa.Table:
    """The clips with the sizes and times of files, as a scan would have written them down."""
    seen = [look(root / path) for path in clips["path"].to_pylist()]
    for name in ("bytes", "mtime_ns"):
        values = pa.array([getattr(file, name) for file in seen], pa.int64())
        clips = clips.set_column(clips.column_names.index(name), name, values)
    return clips


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--num-clips", type=int, default=180_000)
    parser.add_argument("--num-clusters", type=int, default=300)
    parser.add_argument("--num-heads", type=int, default=2)
    parser.add_argument("--thumbnails", action="store_true")
    parser.add_argument("--hostile", action="store_true")
    args = parser.parse_args()
    report = write_synthetic_gallery(
        args.out,
        args.num_clips,
        args.num_clusters,
        args.hostile,
        num_heads=args.num_heads,
        thumbnails=args.thumbnails,
    )
    print("\n".join([str(report.page), *report.lines()]), file=sys.stderr)
