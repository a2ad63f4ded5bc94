import hashlib
import re
from base64 import b64encode
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from selavi.export import CLUSTER_SCHEMA
from selavi.gallery import page as page_module
from selavi.gallery.page import write_gallery
from selavi.media import MediaError, encode_clip

Calls = list[tuple[Path, float]]

HOSTILE_NAMES = [
    '"><img src=x onerror=alert(1)>.mp4',
    "<script>alert(1)<!-- .mp4",
    "'quote' onmouseover='x.mp4",
    "#?&=%20;.mp4",
    "%2e%2e/inside.mp4",
    "{{ 7 * 7 }}.mp4",
    "🎺 trumpet.mp4",
    "-dash.mp4",
    "javascript:alert(1).mp4",
    "back\\slash.mp4",
    "new\nline.mp4",
    "\u202egpm.4.mp4",
    "x" * 240 + ".mp4",
]
HOSTILE_LABEL = '</script></style><script>alert(1)</script>"><b onclick=alert(1)>'


class Page(HTMLParser):
    """Collects the elements with their attributes, and the text under each start tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def table_of(paths: Sequence[str], label: str | None = None, clusters: Sequence[int] | None = None) -> pa.Table:
    rows = [
        {
            "id": path,
            "path": path,
            "start_s": 0.0,
            "head": 0,
            "cluster": clusters[i] if clusters else 0,
            "confidence": 0.9,
            "margin": 0.0,
            "entropy": 0.0,
            "rank_in_cluster": i,
            "label": label,
        }
        for i, path in enumerate(paths)
    ]
    return pa.Table.from_pylist(rows, schema=CLUSTER_SCHEMA)


@pytest.fixture
def fake_decoder(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """A decoder that gives a 64 x 48 picture of any file whose content is not 'broken'; returns its calls."""
    calls: Calls = []

    def decode(path: Path, times_s: Sequence[float], short_side: int) -> np.ndarray:
        calls.extend((path, time_s) for time_s in times_s)
        if not path.exists() or path.read_text() == "broken":
            raise MediaError(path, "corrupt", "no frame can be decoded")
        return np.full((len(times_s), 48, 64, 3), len(calls) % 256, dtype=np.uint8)

    monkeypatch.setattr(page_module, "decode_frames_at", decode)
    return calls


def make_media(root: Path, names: Sequence[str]) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("media")


def local_file(page: Path, url: str) -> Path:
    """Resolve a relative URL as a browser does for file://."""
    parts = urlsplit(url)
    assert not (parts.scheme or parts.netloc or parts.query or parts.fragment), url
    return page.parent / unquote(parts.path)


def test_hostile_names_are_text_and_their_media_are_found(tmp_path: Path, fake_decoder: Calls) -> None:
    root = tmp_path / "media #1 & 100%"
    make_media(root, HOSTILE_NAMES)
    page = write_gallery(
        table_of(HOSTILE_NAMES, HOSTILE_LABEL),
        root,
        tmp_path / "runs" / "demo" / "gallery",
        title=HOSTILE_LABEL,
        head=0,
        clips_per_cluster=50,
        summary={HOSTILE_LABEL: HOSTILE_LABEL, "nmi": 0.91234, "n": 1300},
    )
    parsed = Page(page.read_text(encoding="utf-8"))

    assert len(parsed.all("script")) == len(parsed.all("style")) == 1
    assert not parsed.all("b")
    handlers = [name for _, attributes in parsed.elements for name in attributes if name.startswith("on")]
    assert handlers == []
    text = "".join(parsed.texts)
    assert text.count(HOSTILE_LABEL) >= 4  # title, heading, figure, label
    assert all(name in text for name in HOSTILE_NAMES)
    assert {"0.912", "1,300", "NMI", "Clips scored"} <= set(parsed.texts)

    videos = parsed.all("video")
    found = {local_file(page, video["src"] or "").resolve() for video in videos}
    assert found == {(root / name).resolve() for name in HOSTILE_NAMES}
    strips = [local_file(page, image["src"] or "") for image in parsed.all("img")]
    assert len(set(strips)) == len(HOSTILE_NAMES)
    assert all(re.fullmatch(r"[0-9a-f]{24}\.jpg", strip.name) and strip.is_file() for strip in strips)


def test_the_page_asks_for_nothing_but_its_files(tmp_path: Path, fake_decoder: Calls) -> None:
    make_media(tmp_path, ["a.mp4"])
    page = write_gallery(table_of(["a.mp4"]), tmp_path, tmp_path / "gallery", title="Demo", head=0)
    text = page.read_text(encoding="utf-8")
    outside = r"https?:|(src|href)\s*=\s*[\"']?//|@import|url\(|fetch\(|XMLHttpRequest|import\("
    assert not re.search(outside, text)
    parsed = Page(text)
    (video,) = parsed.all("video")
    assert {"preload", "playsinline", "muted"} <= set(video) and video["preload"] == "none"
    assert all(image["loading"] == "lazy" for image in parsed.all("img"))
    assert not [attributes for _, attributes in parsed.elements if "style" in attributes]

    (policy,) = [m["content"] for m in parsed.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policy and policy.startswith("default-src 'none'")
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, flags=re.DOTALL)
        digest = b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_real_clips_become_strips_over_their_duration(tmp_path: Path) -> None:
    frames = np.zeros((20, 48, 96, 3), dtype=np.uint8)
    frames[:10, ..., 0], frames[10:, ..., 2] = 220, 220  # one second of red, one of blue
    encode_clip(tmp_path / "a.mp4", frames, None, fps=10, sample_rate=8000)
    page = write_gallery(
        table_of(["a.mp4"]), tmp_path, tmp_path / "gallery", title="Demo", head=0, durations_s={"a.mp4": 2.0}
    )
    (strip,) = (page.parent / "thumbs").iterdir()
    pixels = np.asarray(Image.open(strip)).astype(int)
    assert pixels.shape == (160, 4 * 320, 3)
    red_first = [pixels[:, i * 320 + 160, 0].mean() > pixels[:, i * 320 + 160, 2].mean() for i in range(4)]
    assert red_first == [True, True, False, False]


def test_a_recording_that_changes_its_size_gives_one_strip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    widths = iter([64, 64, 80, 48])
    monkeypatch.setattr(page_module, "decode_frames_at", lambda *_: np.zeros((1, 48, next(widths), 3), dtype=np.uint8))
    page = write_gallery(table_of(["a.mp4"]), tmp_path, tmp_path / "gallery", title="Demo", head=0)
    (strip,) = (page.parent / "thumbs").iterdir()
    assert Image.open(strip).size == (4 * 64, 48)


def test_frame_times_follow_start_and_duration(tmp_path: Path, fake_decoder: Calls) -> None:
    make_media(tmp_path, ["a.mp4"])
    table = table_of(["a.mp4"])
    table = table.set_column(2, CLUSTER_SCHEMA.field("start_s"), pa.array([10.0]))
    write_gallery(table, tmp_path, tmp_path / "g", title="Demo", head=0, durations_s={"a.mp4": 4.0})
    assert [time_s for _, time_s in fake_decoder] == [10.5, 11.5, 12.5, 13.5]
    fake_decoder.clear()
    page = write_gallery(table, tmp_path, tmp_path / "g", title="Demo", head=0)
    assert [time_s for _, time_s in fake_decoder] == [10.125, 10.375, 10.625, 10.875]
    assert Page(page.read_text(encoding="utf-8")).all("video")[0]["data-start"] == "10.0"


def test_a_clip_without_a_picture_appears_with_a_placeholder(tmp_path: Path, fake_decoder: Calls) -> None:
    make_media(tmp_path, ["a.mp4", "b.mp4"])
    (tmp_path / "b.mp4").write_text("broken")
    page = write_gallery(table_of(["a.mp4", "b.mp4", "gone.mp4"]), tmp_path, tmp_path / "gallery", title="Demo", head=0)
    parsed = Page(page.read_text(encoding="utf-8"))
    assert len(parsed.all("video")) == len([b for b in parsed.all("button") if b.get("class") == "tile"]) == 3
    assert len(parsed.all("img")) == 1
    assert len([svg for svg in parsed.all("svg") if svg.get("class") == "no-picture"]) == 2


@pytest.mark.parametrize("path", ["../secret.mp4", "a/../../secret.mp4", "/etc/passwd", "."])
def test_nothing_outside_the_media_root_is_linked(tmp_path: Path, fake_decoder: Calls, path: str) -> None:
    root = tmp_path / "media"
    make_media(root, ["a.mp4"])
    with pytest.raises(ValueError, match="1 of 2 clips lie outside the media root"):
        write_gallery(table_of(["a.mp4", path]), root, tmp_path / "gallery", title="Demo", head=0)
    assert not (tmp_path / "gallery").exists()
    assert fake_decoder == []


def test_clusters_show_size_confidence_and_label_where_there_is_one(tmp_path: Path, fake_decoder: Calls) -> None:
    paths = [f"{i}.mp4" for i in range(5)]
    make_media(tmp_path, paths)
    labelled = table_of(paths, "siren", clusters=[3, 3, 3, 8, 8])
    page = write_gallery(labelled, tmp_path, tmp_path / "gallery", title="Demo", head=0)
    parsed = Page(page.read_text(encoding="utf-8"))
    sections = parsed.all("section")
    assert [(s["data-number"], s["data-size"], s["data-purity"]) for s in sections] == [
        ("3", "3", "1.0"),
        ("8", "2", "1.0"),
    ]
    assert {option["value"] for option in parsed.all("option")} == {"size", "confidence", "purity", "number"}
    assert {"100%", "siren", "0.90"} <= set(parsed.texts)

    bare = write_gallery(table_of(paths, clusters=[3, 3, 3, 8, 8]), tmp_path, tmp_path / "bare", title="Demo", head=0)
    parsed = Page(bare.read_text(encoding="utf-8"))
    assert {option["value"] for option in parsed.all("option")} == {"size", "confidence", "number"}
    assert "100%" not in parsed.texts


def test_writing_again_replaces_the_page_and_drops_old_strips(tmp_path: Path, fake_decoder: Calls) -> None:
    make_media(tmp_path, ["a.mp4", "b.mp4"])
    out_dir = tmp_path / "gallery"
    write_gallery(table_of(["a.mp4", "b.mp4"]), tmp_path, out_dir, title="First", head=0)
    (out_dir / "thumbs" / "beach.jpg").write_text("kept")
    page = write_gallery(table_of(["a.mp4"]), tmp_path, out_dir, title="Second", head=0)
    text = page.read_text(encoding="utf-8")
    assert "Second" in text and "First" not in text
    names = {path.name for path in (out_dir / "thumbs").iterdir()}
    (strip,) = Page(text).all("img")
    assert names == {"beach.jpg", Path(strip["src"] or "").name}
