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
from selavi.batch import NUM_DRAWS, ClipBatch
from selavi.config import Config
from selavi.errors import UsageError
from selavi.evaluation import degradation as dg
from selavi.inference.encode import encode_clips
from selavi.inference.predict import predict
from selavi.model import SelaviModel

SPAN = dg.Span(1.0, 8000, np.random.default_rng(0))


def pictures(size: int = 32) -> np.ndarray:
    """(6, size, size, 3): a textured square that moves."""
    frames = np.full((6, size, size, 3), 90, np.uint8)
    texture = np.random.default_rng(1).integers(0, 256, (12, 12, 3))
    for index in range(6):
        frames[index, 8:20, index * 2 : index * 2 + 12] = texture
    return frames


def tone(frequency: float, seconds: float = 1.0) -> np.ndarray:
    return (8000 * np.sin(2 * np.pi * frequency * np.arange(round(8000 * seconds)) / 8000)).astype(np.int16)


def noisy_tone() -> np.ndarray:
    return (tone(440) + np.random.default_rng(2).normal(0, 900, 8000)).astype(np.int16)


def severity_of(name: str) -> list[float]:
    corruption = dg.CORRUPTIONS[name]
    values = pictures() if corruption.modality == "video" else noisy_tone()
    assert corruption.degrade is not None
    changed = [
        corruption.degrade(values, severity, replace(SPAN, rng=np.random.default_rng(0)))
        for severity in corruption.severities
    ]
    assert all(one.shape == values.shape and one.dtype == values.dtype for one in changed)
    return [float(np.abs(one.astype(float) - values).mean()) for one in changed]


@pytest.mark.parametrize("name", [name for name, each in dg.CORRUPTIONS.items() if each.degrade is not None])
def test_each_severity_takes_more_away_than_the_one_before(name: str) -> None:
    distances = severity_of(name)
    assert distances == sorted(distances)
    assert distances[-1] > max(1.0, 1.5 * distances[0])


def test_low_resolution_keeps_means_and_loses_detail() -> None:
    frames = np.zeros((1, 8, 8, 3), np.uint8)
    frames[:, :, ::2] = 200
    assert np.unique(dg.lower_resolution(frames, 2, SPAN)).tolist() == [100]
    assert np.array_equal(dg.lower_resolution(frames, 1, SPAN), frames)


def test_a_frozen_picture_repeats_the_last_moving_frame() -> None:
    frames = pictures()
    half = dg.freeze_video(frames, 0.5, SPAN)
    assert np.array_equal(half[:3], frames[:3])
    assert (half[3:] == frames[2]).all()
    assert (dg.freeze_video(frames, 1.0, SPAN) == frames[0]).all()


@pytest.mark.parametrize("ratio", [20, 0, -10])
def test_noise_has_its_ratio_to_the_sound(ratio: float) -> None:
    sound = tone(440) // 8
    noise = dg.add_audio_noise(sound, ratio, SPAN).astype(float) - sound
    found = 10 * np.log10(np.mean(sound.astype(float) ** 2) / np.mean(noise**2))
    assert found == pytest.approx(ratio, abs=0.4)


def test_noise_never_clips_and_leaves_silence_silent() -> None:
    loud = (tone(440) * 4.0).astype(np.int16)
    assert np.abs(dg.add_audio_noise(loud, -10, SPAN).astype(int)).max() == 32767
    assert not dg.add_audio_noise(np.zeros(100, np.int16), -10, SPAN).any()


def test_a_low_pass_takes_what_is_above() -> None:
    low, high = tone(200), tone(3000)
    middle = slice(1000, 7000)
    filtered = dg.low_pass_audio((low + high).astype(np.int16), 1000, SPAN)
    assert filtered[middle] == pytest.approx(low[middle], abs=50)
    assert np.array_equal(dg.low_pass_audio(low, 4000, SPAN), low)  # half of the sample rate: nothing to remove


def test_holes_have_their_length_and_grow_with_the_severity() -> None:
    sound = np.full(8000, 7, np.int16)
    changed = [dg.drop_audio(sound, s, replace(SPAN, rng=np.random.default_rng(0))) for s in (0.25, 0.5, 1.0)]
    assert [(one == 0).sum() for one in changed] == [2000, 4000, 8000]
    assert ((changed[0] == 0) <= (changed[1] == 0)).all()
    edges = np.flatnonzero(np.diff(changed[0]))
    assert ((edges + 1) % 400 == 0).all()


# ---- batches ----


def batch_of(config: Config, num_clips: int, num_views: int) -> ClipBatch:
    count, size = num_clips * num_views, config.video.decode_size
    rng = np.random.default_rng(3)
    video = np.stack([np.roll(pictures(size)[: config.video.num_frames], 3 * n, axis=2) for n in range(count)])
    sound = np.stack([tone(rng.uniform(100, 3000), config.data.clip_s) for _ in range(count)])
    everywhere = torch.ones(count, dtype=torch.bool)
    return ClipBatch(
        torch.arange(num_clips).repeat_interleave(num_views),
        {"video": torch.from_numpy(video), "audio": torch.from_numpy(sound)},
        {"video": everywhere, "audio": everywhere.clone()},
        torch.full((count, NUM_DRAWS), 0.5),
        [],
    )


@pytest.fixture
def config(tiny: Callable[..., Config]) -> Config:
    return tiny("encoders.audio_width=8")


def degrade(config: Config, batch: ClipBatch, name: str, severity: float, seed: int = 0) -> ClipBatch:
    ids = [f"clip {row}" for row in range(10)]
    return dg.degrade_batch(batch, name, severity, ids=ids, num_views=2, seed=seed, config=config)


def test_only_the_modality_meant_is_touched(config: Config) -> None:
    batch = batch_of(config, 2, 2)
    for name, corruption in dg.CORRUPTIONS.items():
        changed = degrade(config, batch, name, corruption.severities[-1])
        other = "audio" if corruption.modality == "video" else "video"
        assert torch.equal(changed.inputs[other], batch.inputs[other])
        assert not torch.equal(changed.inputs[corruption.modality], batch.inputs[corruption.modality])
        assert bool(changed.present[corruption.modality].any()) == (corruption.degrade is not None)
        assert changed.present[other].all()
    assert degrade(config, batch, dg.CLEAN, 0.0) is batch


def test_noise_is_a_function_of_seed_clip_and_view(config: Config) -> None:
    batch = batch_of(config, 3, 2)
    whole = degrade(config, batch, "video_noise", 32).inputs["video"]
    last = ClipBatch(
        batch.index[4:],
        {name: values[4:] for name, values in batch.inputs.items()},
        {name: mask[4:] for name, mask in batch.present.items()},
        batch.draws[4:],
        [],
    )
    assert torch.equal(degrade(config, last, "video_noise", 32).inputs["video"], whole[4:])
    assert not torch.equal(degrade(config, batch, "video_noise", 32, seed=1).inputs["video"], whole)
    noise = whole.int() - batch.inputs["video"].int()
    assert not torch.equal(noise[4], noise[5])  # two views of a clip


def test_an_unknown_corruption_is_refused(config: Config) -> None:
    with pytest.raises(ValueError, match="no corruption 'fog'; there are clean, compression, "):
        degrade(config, batch_of(config, 1, 2), "fog", 1.0)
    with pytest.raises(UsageError, match="no corruption 'fog'; there are compression, "):
        dg.check_names(["blur", "fog"], 1)


# ---- lines ----


@pytest.fixture
def judge(config: Config) -> dg.Judge:
    torch.manual_seed(0)
    model, augment = SelaviModel(config).eval(), Augment(config)
    clips = encode_clips(model, augment, [batch_of(config, 6, 1)], 6, 1)
    lines = dg.kmeans_lines("both", clips, ["video", "video+audio"], 3, 0)
    labels = torch.randint(0, 8, (20, 2), generator=torch.Generator().manual_seed(1))
    bank = {"labels": labels, "potentials": torch.randn(2, 8, generator=torch.Generator().manual_seed(2)).double()}
    return dg.make_judge("both", Path("runs/both"), model, augment, config, bank, lines)


def test_heads_say_what_predict_says(config: Config, judge: dg.Judge) -> None:
    batch = batch_of(config, 5, 2)
    batch.present["audio"][:3] = False  # a clip without sound, and one of which one view has none
    features = judge.model.features(judge.augment(batch, random=False))
    found = judge.lines[0].assign(features, batch.present, 2)
    rule = judge.lines[0].assign.keywords["rule"]  # type: ignore[attr-defined]
    expected = predict(judge.model, judge.augment, [batch], 5, 2, config, rule)
    assert np.array_equal(found, expected.clusters.numpy())
    assert len(np.unique(found)) > 1


def test_a_clip_goes_to_the_nearest_centre(config: Config, judge: dg.Judge) -> None:
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


def test_rows_count_labelled_clips_that_could_be_decoded(config: Config, judge: dg.Judge) -> None:
    batch = batch_of(config, 6, 2)
    for mask in batch.present.values():
        mask[:2] = False  # the first clip could not be decoded
    clips = clips_of(["a", "a", "b", None, "b", "c"])
    rows = dg.measure([batch], "blur", [0.01, 0.08], [judge], clips, num_views=2, seed=0, config=config)
    assert [(row["line"], row["severity"], row["clips"]) for row in rows] == [
        (line, severity, 4)
        for line in ("both", "both, K-means on video", "both, K-means on video+audio")
        for severity in (0.01, 0.08)
    ]
    for row in rows[:2]:
        assert len(row["nmi_heads"]) == 2
        assert row["nmi"] == row["nmi_heads"][judge.lines[0].head]
    with pytest.raises(UsageError, match="no clip has a label"):
        dg.measure([batch], "blur", [0.01], [judge], clips_of([None] * 6), num_views=2, seed=0, config=config)


def test_without_its_only_modality_nothing_is_known(config: Config, judge: dg.Judge) -> None:
    batch = batch_of(config, 6, 1)
    clips = clips_of(list("aabbcc"))
    rows = dg.measure([batch], "no_video", [1.0], [judge], clips, num_views=1, seed=0, config=config)
    found = {row["line"]: row["nmi"] for row in rows}
    assert found["both, K-means on video"] == 0


# ---- the file ----


def row(line: str, corruption: str, severity: float, nmi: float, key: str = "0") -> dict[str, object]:
    figures = {"nmi": nmi, "accuracy": nmi, "nmi_heads": [nmi], "clips": 9}
    return {"line": line, "run": f"runs/{key}", "key": key, "corruption": corruption, "severity": severity, **figures}


def test_what_is_in_the_file_is_not_measured_again(tmp_path: Path, judge: dg.Judge) -> None:
    table = dg.DegradationTable(tmp_path, "test", 3, 0)
    assert table.missing([judge], dg.CLEAN) == [0.0]
    assert table.missing([judge], "blur") == [0.01, 0.02, 0.04, 0.08]
    names = [line.name for line in judge.lines]
    table.add([row(name, "blur", s, 0.5, judge.key) for name in names for s in (0.01, 0.04)])
    table.add([row(names[0], "blur", 0.02, 0.5, judge.key)])
    again = dg.DegradationTable(tmp_path, "test", 3, 0)
    assert again.missing([judge], "blur") == [0.02, 0.08]
    assert again.missing([replace(judge, key="another labelling")], "blur") == [0.01, 0.02, 0.04, 0.08]
    again.add([row(names[0], "blur", 0.02, 0.7, judge.key)])
    assert [each["nmi"] for each in again.rows if each["severity"] == 0.02] == [0.7]
    with (tmp_path / "degradation_test.csv").open(newline="") as file:
        assert [float(each["nmi"]) for each in csv.DictReader(file)].count(0.7) == 1


def test_a_table_of_other_settings_is_refused(tmp_path: Path) -> None:
    dg.DegradationTable(tmp_path, "test", 3, 0).add([row("a", "blur", 0.01, 0.5)])
    with pytest.raises(UsageError, match=r"was made with .*'views': 3.* not .*'views': 1"):
        dg.DegradationTable(tmp_path, "test", 1, 0)
    (tmp_path / "degradation_train.json").write_text(json.dumps([1]))
    with pytest.raises(UsageError, match="is not a table of selavi degrade"):
        dg.DegradationTable(tmp_path, "train", 3, 0)


def test_curves_begin_with_the_undegraded_clips() -> None:
    """A ratio of 0 dB is a severity like any other."""
    rows = [row("a", "clean", 0, 0.9), row("a", "audio_noise", 0, 0.4), row("a", "audio_noise", 20, 0.8)]
    rows += [row("a", "audio_noise", 20, 0.6, "1"), row("b", "clean", 0, 0.3)]
    assert dg.curves(rows, "audio_noise") == {"a": [(None, [0.9]), (20, [0.8, 0.6]), (0, [0.4])]}
    text = dg.format_degradation(rows)
    assert "noisy sound (signal-to-noise ratio in dB), NMI" in text
    assert text.splitlines()[-1].split() == ["a", "0.900", "0.700", "-", "-", "0.400", "-", "-"]


def test_a_plot_for_each_corruption_and_one_for_missing_modalities(tmp_path: Path) -> None:
    names = [f"run {number}" for number in range(9)]
    rows = [row(name, "clean", 0, 0.5) for name in names]
    rows += [row(name, "blur", s, 0.4, key) for name in names for s in (0.01, 0.08) for key in "ab"]
    rows += [row(names[0], "no_audio", 1.0, 0.2)]
    found = [path.name for path in dg.write_plots(rows, tmp_path, "test")]
    assert found == ["degradation_test_blur.svg", "degradation_test_missing.svg", "degradation_test_blur-2.svg"]
    text = (tmp_path / found[0]).read_text()
    assert "Blurred picture, test clips; mean and range where a line has several runs, 2 at most" in text
    assert "standard deviation, share of the side: from mild to worst" in text
    assert "run 6" in text and "run 7" not in text
    assert "run 8" in (tmp_path / found[2]).read_text()
