import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from selavi.augment import Augment
from selavi.config import Config
from selavi.errors import UsageError
from selavi.evaluation.corruptions import CLEAN
from selavi.evaluation.degradation import (
    DegradationTable,
    Judge,
    check_names,
    kmeans_lines,
    make_judge,
    measure,
)
from selavi.evaluation.degradation_charts import curves, format_degradation, write_plots
from selavi.inference.encode import encode_clips
from selavi.inference.predict import predict
from selavi.model import SelaviModel
from tests.selavi.evaluation.test_corruptions import batch_of


@pytest.fixture
def config(tiny: Callable[..., Config]) -> Config:
    return tiny("encoders.audio_width=8")


def test_an_unknown_corruption_is_refused_before_anything_is_read() -> None:
    with pytest.raises(UsageError, match="no corruption 'fog'; there are compression, "):
        check_names(["blur", "fog"], 1)


@pytest.fixture
def judge(config: Config) -> Judge:
    torch.manual_seed(0)
    model, augment = SelaviModel(config).eval(), Augment(config)
    clips = encode_clips(model, augment, [batch_of(config, 6, 1)], 6, 1)
    lines = kmeans_lines("both", clips, ["video", "video+audio"], 3, 0)
    labels = torch.randint(0, 8, (20, 2), generator=torch.Generator().manual_seed(1))
    bank = {"labels": labels, "potentials": torch.randn(2, 8, generator=torch.Generator().manual_seed(2)).double()}
    return make_judge("both", Path("runs/both"), model, augment, config, bank, lines)


def test_heads_say_what_predict_says(config: Config, judge: Judge) -> None:
    batch = batch_of(config, 5, 2)
    batch.present["audio"][:3] = False  # a clip without sound, and one of which one view has none
    features = judge.model.features(judge.augment(batch, random=False))
    found = judge.lines[0].assign(features, batch.present, 2)
    rule = judge.lines[0].assign.keywords["rule"]  # type: ignore[attr-defined]
    expected = predict(judge.model, judge.augment, [batch], 5, 2, config, rule)
    assert np.array_equal(found, expected.clusters.numpy())
    assert len(np.unique(found)) > 1


def test_a_clip_goes_to_the_nearest_centre(config: Config, judge: Judge) -> None:
    line = judge.lines[2]
    assert line.name == "both, K-means on video+audio"
    batch = batch_of(config, 6, 1)
    features = judge.model.features(judge.augment(batch, random=False))
    found = line.assign(features, batch.present, 1)
    assert sorted(np.unique(found)) == [0, 1, 2]  # the clips that the centres were made of
    twice = {name: values.repeat_interleave(2, 0) for name, values in features.items()}
    there = {name: mask.repeat_interleave(2) for name, mask in batch.present.items()}
    assert np.array_equal(line.assign(twice, there, 2), found)


def clips_of(labels: list[str | None]) -> pa.Table:
    return pa.table({"id": [f"clip {row}" for row in range(len(labels))], "label": pa.array(labels, pa.string())})


def test_rows_count_labelled_clips_that_could_be_decoded(config: Config, judge: Judge) -> None:
    batch = batch_of(config, 6, 2)
    for mask in batch.present.values():
        mask[:2] = False  # the first clip could not be decoded
    clips = clips_of(["a", "a", "b", None, "b", "c"])
    rows = measure([batch], "blur", [0.01, 0.08], [judge], clips, num_views=2, seed=0, config=config)
    assert [(row["line"], row["severity"], row["clips"]) for row in rows] == [
        (line, severity, 4)
        for line in ("both", "both, K-means on video", "both, K-means on video+audio")
        for severity in (0.01, 0.08)
    ]
    for row in rows[:2]:
        assert len(row["nmi_heads"]) == 2
        assert row["nmi"] == row["nmi_heads"][judge.lines[0].head]
    with pytest.raises(UsageError, match="no clip has a label"):
        measure([batch], "blur", [0.01], [judge], clips_of([None] * 6), num_views=2, seed=0, config=config)


def test_without_its_only_modality_nothing_is_known(config: Config, judge: Judge) -> None:
    batch = batch_of(config, 6, 1)
    clips = clips_of(list("aabbcc"))
    rows = measure([batch], "no_video", [1.0], [judge], clips, num_views=1, seed=0, config=config)
    found = {row["line"]: row["nmi"] for row in rows}
    assert found["both, K-means on video"] == 0


# ---- the file ----


def row(line: str, corruption: str, severity: float, nmi: float, key: str = "0") -> dict[str, object]:
    figures = {"nmi": nmi, "accuracy": nmi, "nmi_heads": [nmi], "clips": 9}
    return {"line": line, "run": f"runs/{key}", "key": key, "corruption": corruption, "severity": severity, **figures}


def test_what_is_in_the_file_is_not_measured_again(tmp_path: Path, judge: Judge) -> None:
    table = DegradationTable(tmp_path, "test", 3, 0)
    assert table.missing([judge], CLEAN) == [0.0]
    assert table.missing([judge], "blur") == [0.01, 0.02, 0.04, 0.08]
    names = [line.name for line in judge.lines]
    table.add([row(name, "blur", s, 0.5, judge.key) for name in names for s in (0.01, 0.04)])
    table.add([row(names[0], "blur", 0.02, 0.5, judge.key)])
    again = DegradationTable(tmp_path, "test", 3, 0)
    assert again.missing([judge], "blur") == [0.02, 0.08]
    assert again.missing([replace(judge, key="another labelling")], "blur") == [0.01, 0.02, 0.04, 0.08]
    again.add([row(names[0], "blur", 0.02, 0.7, judge.key)])
    assert [each["nmi"] for each in again.rows if each["severity"] == 0.02] == [0.7]
    with (tmp_path / "degradation_test.csv").open(newline="") as file:
        assert [float(each["nmi"]) for each in csv.DictReader(file)].count(0.7) == 1


def test_a_table_of_other_settings_is_refused(tmp_path: Path) -> None:
    DegradationTable(tmp_path, "test", 3, 0).add([row("a", "blur", 0.01, 0.5)])
    with pytest.raises(UsageError, match=r"was made with .*'views': 3.* not .*'views': 1"):
        DegradationTable(tmp_path, "test", 1, 0)
    (tmp_path / "degradation_train.json").write_text(json.dumps([1]))
    with pytest.raises(UsageError, match="is not a table of selavi degrade"):
        DegradationTable(tmp_path, "train", 3, 0)


def test_curves_begin_with_the_undegraded_clips() -> None:
    """A ratio of 0 dB is a severity like any other."""
    rows = [row("a", "clean", 0, 0.9), row("a", "audio_noise", 0, 0.4), row("a", "audio_noise", 20, 0.8)]
    rows += [row("a", "audio_noise", 20, 0.6, "1"), row("b", "clean", 0, 0.3)]
    assert curves(rows, "audio_noise") == {"a": [(None, [0.9]), (20, [0.8, 0.6]), (0, [0.4])]}
    text = format_degradation(rows)
    assert "noisy sound (signal-to-noise ratio in dB), NMI" in text
    assert text.splitlines()[-1].split() == ["a", "0.900", "0.700", "-", "-", "0.400", "-", "-"]


def test_a_plot_for_each_corruption_and_one_for_missing_modalities(tmp_path: Path) -> None:
    names = [f"run {number}" for number in range(9)]
    rows = [row(name, "clean", 0, 0.5) for name in names]
    rows += [row(name, "blur", s, 0.4, key) for name in names for s in (0.01, 0.08) for key in "ab"]
    rows += [row(names[0], "no_audio", 1.0, 0.2)]
    found = [path.name for path in write_plots(rows, tmp_path, "test")]
    assert found == ["degradation_test_blur.svg", "degradation_test_missing.svg", "degradation_test_blur-2.svg"]
    text = (tmp_path / found[0]).read_text()
    assert "Blurred picture, test clips; mean and range where a line has several runs, 2 at most" in text
    assert "standard deviation, share of the side: from mild to worst" in text
    assert "run 6" in text and "run 7" not in text
    assert "run 8" in (tmp_path / found[2]).read_text()
