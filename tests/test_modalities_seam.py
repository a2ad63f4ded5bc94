"""A new modality is three small files and three entries in dicts; what else names one is listed here."""

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from selavi.augment import AUGMENTATIONS
from selavi.encoders import ENCODERS
from selavi.encoders.encoder import Encoder
from selavi.modalities import MODALITIES
from selavi.modalities.modality import Modality, Settings, Streams, Window
from selavi.randomness import mix
from tools import assign, cluster_eval, export_clusters, train

# What the three files of a new kind hold: "numbers", a few floats that every recording has but the first one.


def _numbers(streams: Streams, facts: Mapping[str, Any], window: Window, config: Settings) -> np.ndarray | None:
    if facts["id"].endswith("00000.mp4"):
        return None
    return np.array([facts["duration_s"], window.start_s, mix(facts["id"]) % 7, config.data.clip_s], np.float32)


NUMBERS = Modality(
    dtype=np.float32,
    shape=lambda config: (4,),
    value=_numbers,
    example=lambda shape, generator: generator.random(shape, np.float32),
    columns=("id", "duration_s"),
)


class JitterNumbers(nn.Module):
    draws: ClassVar[Mapping[str, int]] = {"noise": 19}
    expects: ClassVar[tuple[str, ...]] = ()

    def plain(self, values: Tensor) -> Tensor:
        return values

    def random(self, values: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        return values + draws["noise"][:, None]


class EncodeNumbers(Encoder):
    num_features = 8

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, self.num_features)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs).relu()


@pytest.fixture
def numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODALITIES, "numbers", NUMBERS)
    monkeypatch.setitem(AUGMENTATIONS, "numbers", lambda config: JitterNumbers())
    monkeypatch.setitem(ENCODERS, "numbers", lambda config: EncodeNumbers())


@pytest.mark.usefixtures("numbers")
@pytest.mark.parametrize(
    "settings",
    [
        ("modalities=[numbers,audio]",),
        ("modalities=[numbers]",),
        ("modalities=[audio,numbers]", "labelling.source=own"),
        ("modalities=[audio,numbers]", "labelling.source=concat"),
        ("modalities=[video,audio,numbers]", "labelling.source=own", "labelling.method=kmeans"),
        ("modalities={near: audio, far: audio, numbers: numbers}", "far.num_mels=24", "labelling.source=own"),
    ],
    ids=" ".join,
)
def test_a_new_modality_trains_and_labels_clips(tiny_yaml: Path, tmp_path: Path, settings: tuple[str, ...]) -> None:
    run_dir = tmp_path / "run"
    two_steps = ("trainer.max_epochs=1", "optim.batch_size=16", "labelling.num_labellings=2")
    assert train.main(["--config", str(tiny_yaml), f"run_dir={run_dir}", *settings, *two_steps]) == 0
    labels = pq.read_table(run_dir / "labels" / "train.parquet")
    assert len(set(labels["id"].to_pylist())) == 32
    state = torch.load(run_dir / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert state["model.encoders.numbers.linear.weight"].shape == (8, 4)
    assert ("model.encoders.far.conv1.weight" in state) == ("far:" in settings[0])
    assert cluster_eval.main([str(run_dir), "--split", "test"]) == 0
    assert (run_dir / "labels" / "test.parquet").exists()


@pytest.mark.usefixtures("numbers")
def test_its_run_is_gone_on_with_assigned_and_exported(tiny_yaml: Path, tmp_path: Path, demo_set: Path) -> None:
    base, run_dir = tmp_path / "base", tmp_path / "run"
    common = ["--config", str(tiny_yaml), "modalities=[numbers,audio]", "trainer.max_epochs=1"]
    assert train.main([*common, f"run_dir={base}"]) == 0
    assert train.main([*common, f"run_dir={run_dir}", f"encoders.init={base}"]) == 0
    assert assign.main([str(run_dir), str(demo_set / "test"), "--out", str(tmp_path / "new"), "--workers", "0"]) == 0
    assert set(pq.read_table(tmp_path / "new" / "assignments.parquet")["cluster"].to_pylist()) <= set(range(8))
    assert export_clusters.main([str(run_dir), "--split", "train"]) == 0
    assert (run_dir / "gallery" / "index.html").exists()
    evidence = pq.read_table(next((run_dir / "contrast-and-sound").glob("*.parquet")))
    assert evidence["audio"].null_count == 0 and evidence["video"].null_count == len(evidence)


@pytest.mark.usefixtures("numbers")
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("modalities=[audio,numbers]",), "(audio 256 numbers, 8 views, without numbers, of which there are none)"),
        (("modalities=[audio,numbers]", "labelling.source=concat"), "(audio 256 numbers, 8 views, without numbers,"),
        (("modalities=[numbers]",), "none are given, since there are no crafted features of numbers"),
        (("modalities=[audio,numbers]", "labelling.source=own"), "none are given, since there are no crafted features"),
    ],
)
def test_first_labels_come_from_the_modalities_that_have_crafted_features(
    tiny_yaml: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: tuple[str, ...], said: str
) -> None:
    short = ("labelling.first=crafted", "trainer.max_epochs=1", "labelling.num_labellings=2")
    assert train.main(["--config", str(tiny_yaml), f"run_dir={tmp_path / 'run'}", *settings, *short]) == 0
    assert f"first labels: {said}" in capsys.readouterr().err.replace("heads on crafted features ", "")


def test_every_modality_has_an_augmentation_and_an_encoder() -> None:
    assert MODALITIES.keys() == AUGMENTATIONS.keys() == ENCODERS.keys()


# What "spells a modality" means here: a string that is its name, or a variable, argument, attribute or keyword of that
# name.  Settings and columns such as `audio_policy` and `audio_state` have names of their own and do not count.
SPELLED = {"video", "audio"}
ABOUT_PICTURES_OR_SOUND = (
    "selavi/media/",
    "selavi/modalities/",
    "selavi/augment/",
    "selavi/encoders/",
    "selavi/results/gallery/",
    "selavi/evaluation/corruptions.py",
    "selavi/evaluation/degradation.py",
    "datamodules/index/sources/",  # there `video` is a column of official lists: the id of a YouTube video
)
ALLOWED: dict[str, tuple[int, str]] = {
    "selavi/config/sections.py": (6, "the sections of settings, what each needs, and the published run's defaults"),
    "selavi/localisation/evidence.py": (1, "which modalities have evidence to show, and how it is laid out"),
    "selavi/pretrained/official.py": (3, "the networks in the files of the original"),
    "selavi/training/finetune.py": (1, "the run's sound is kept; its pictures may be cropped anew"),
    "datamodules/doctor/throughput.py": (1, "smaller pictures are tried as a way to faster data"),
}
"""File -> how many lines of it spell a modality, and why."""


def spelling_lines(source: str) -> set[int]:
    """Lines that spell a modality."""
    lines = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Constant(value=str(text)) if text in SPELLED:
                lines.add(node.lineno)
            case ast.Name(id=name) | ast.arg(arg=name) if name in SPELLED:
                lines.add(node.lineno)
            case ast.Attribute(attr=name) if name in SPELLED:
                lines.add(node.end_lineno or node.lineno)
            case ast.keyword(arg=name) if name in SPELLED:
                lines.add(node.lineno)
    return lines


def test_a_dozen_lines_spell_a_modality_each_with_its_reason() -> None:
    root = Path(__file__).resolve().parents[1]
    counts = {}
    for file in (*(root / "selavi").rglob("*.py"), *(root / "datamodules").rglob("*.py")):
        path = file.relative_to(root).as_posix()
        if not path.startswith(ABOUT_PICTURES_OR_SOUND) and (lines := spelling_lines(file.read_text("utf-8"))):
            counts[path] = len(lines)
    assert counts == {path: count for path, (count, _) in ALLOWED.items()}
    assert sum(counts.values()) <= 12


@pytest.mark.parametrize(
    "source",
    ['x = "video"', "config.audio", "f(audio=1)", "def f(video): ...", "for audio in y: ...", "audio: int = 1"],
)
def test_what_spells_a_modality_is_counted(source: str) -> None:
    assert spelling_lines(source) == {1}


@pytest.mark.parametrize("source", ['"a video of x"', "audio_policy", 'row["audio_state"]', "VIDEO", '"video.size"'])
def test_what_only_speaks_of_it_is_not(source: str) -> None:
    assert spelling_lines(source) == set()
