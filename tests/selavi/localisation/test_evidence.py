"""Evidence adds up to the score, lies where it was put, and its files survive a kill."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from datamodules.clips import judge_for
from datamodules.index.scan import scan
from datamodules.stores.opening import open_prepared
from datamodules.stores.prepare import PrepareSettings, prepare
from selavi.augment import Augment
from selavi.batch import ClipBatch
from selavi.commands.evidence import evidence_for
from selavi.config import Config, load_config
from selavi.errors import UsageError
from selavi.localisation import evidence
from selavi.localisation.evidence import (
    Place,
    assemble,
    find_evidence,
    plan_windows,
)
from selavi.localisation.files import EvidenceWriter, read_evidence, read_faded
from selavi.model import SelaviModel
from selavi.results.evidence import Evidence, EvidenceMap
from selavi.results.labels import read_labels

SEEN = {"video": (2, 8, 8), "audio": (8, 8)}
"""Inputs as large as the maps."""


def make(config: Config, num_clips: int = 3) -> tuple[SelaviModel, Augment, ClipBatch]:
    """A model with random weights and batch norms that are not the identity, and clips of noise."""
    torch.manual_seed(0)
    model, augment = SelaviModel(config), Augment(config)
    for layer in model.modules():
        if isinstance(layer, torch.nn.modules.batchnorm._BatchNorm):
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 2)
            layer.bias.data.normal_(0, 0.3)
    size, samples = config.video.decode_size, round(config.data.clip_s * config.audio.sample_rate)
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(num_clips, 3, 4, 4, generator=generator)
    frames = (F.interpolate(coarse, (size, size), mode="bilinear") * 255).byte().permute(0, 2, 3, 1)
    clips = {
        "video": frames[:, None].repeat(1, config.video.num_frames, 1, 1, 1),
        "audio": (torch.randn(num_clips, samples, generator=generator) * 3000).short(),
    }
    inputs = {name: clips[name] for name in config.modalities}
    present = {name: torch.ones(num_clips, dtype=torch.bool) for name in inputs}
    batch = ClipBatch(torch.arange(num_clips), inputs, present, torch.full((num_clips, 32), 0.5), [])
    return model.eval(), augment, batch


@pytest.mark.parametrize("recipe", ["separate", "concat"])
def test_at_the_last_map_the_parts_add_up_to_the_score(tiny: Callable[..., Config], recipe: str) -> None:
    """Zhou et al., CVPR 2016: the logit of a linear head is the sum of its class activation map, and the bias."""
    changes = ["labelling.source=concat"] if recipe == "concat" else []
    config = tiny("heads.kind=linear", *changes)
    model, augment, batch = make(config)
    clusters, head = torch.tensor([5, 0, 2]), 1
    maps = find_evidence(model, augment, batch, clusters, head, config, min_positions=1)
    with torch.no_grad():
        logits = model(augment(batch, random=False), batch.present)
        totals = {name: found.flatten(1).sum(1) for name, found in maps.items()}
        found = {"concat": totals["video"] + totals["audio"]} if recipe == "concat" else totals
        assert set(found) == set(logits)
        for name, values in logits.items():
            bias = model.heads[name].bias[head]
            score = evidence.score_of(values[head] - bias, clusters[:, None])
            torch.testing.assert_close(found[name], score, rtol=1e-4, atol=1e-5)
            assert score.abs().min() > 1e-3


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_the_map_is_activation_times_gradient(tiny: Callable[..., Config], kind: str) -> None:
    """Against a gradient taken by hand, from the features that the head reads."""
    config = tiny(f"heads.kind={kind}")
    model, augment, batch = make(config)
    clusters = torch.tensor([1, 1, 7])
    found = find_evidence(model, augment, batch, clusters, 0, config, min_positions=1)["audio"]
    outputs: list[torch.Tensor] = []
    hook = model.encoders["audio"].layer4.register_forward_hook(lambda _, __, output: outputs.append(output.detach()))
    features = model.features(augment(batch, random=False))["audio"].detach().requires_grad_()
    hook.remove()
    score = evidence.score_of(model.heads["audio"](features)[0], clusters[:, None]).sum()
    (gradient,) = torch.autograd.grad(score, features)
    num_positions = outputs[0][0, 0].numel()
    expected = (outputs[0] * gradient[:, :, None, None]).sum(1) / num_positions
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_the_deepest_map_with_positions_enough_is_taken(tiny: Callable[..., Config]) -> None:
    config = tiny("video.size=64", "video.decode_size=64")
    model, augment, batch = make(config, 1)
    maps = find_evidence(model, augment, batch, torch.tensor([0]), 0, config)
    assert maps["video"].shape[2:] == (8, 8)  # 64 / 8: stage 3; the last one has 4 x 4
    assert min(maps["audio"].shape[1:]) >= evidence.MIN_POSITIONS


def test_a_window_without_a_modality_has_no_evidence_there(tiny: Callable[..., Config]) -> None:
    config = tiny()
    model, augment, batch = make(config)
    clusters = torch.tensor([1, 2, 3])
    whole = find_evidence(model, augment, batch, clusters, 0, config)
    batch.present["video"][1] = False
    part = find_evidence(model, augment, batch, clusters, 0, config)
    assert not part["video"][1].any() and whole["video"][1].any()
    torch.testing.assert_close(part["video"][[0, 2]], whole["video"][[0, 2]], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(part["audio"], whole["audio"])


def test_heads_of_one_modality_are_explained_by_it_alone(tiny: Callable[..., Config]) -> None:
    config = tiny("labelling.source=own")
    model, augment, batch = make(config)
    num_heads = config.heads.num_heads
    assert set(find_evidence(model, augment, batch, torch.tensor([1, 2, 3]), 0, config)) == {"video"}
    assert set(find_evidence(model, augment, batch, torch.tensor([1, 2, 3]), num_heads, config)) == {"audio"}


def test_windows_surround_the_pictures_and_cover_the_sound() -> None:
    places = plan_windows(10.0, 1.0, ["video", "audio"])
    seen = [place.start_s for place in places if place.modality == "video"]
    heard = [place.start_s for place in places if place.modality == "audio"]
    assert seen == [0.75, 3.25, 5.75, 8.25] and heard == [float(i) for i in range(10)]
    assert [p.start_s for p in plan_windows(1.0, 1.0, ["video", "audio"])] == [0.0] * 5
    assert [p.start_s for p in plan_windows(1.5, 1.0, ["audio"])] == [0.0, 0.5]
    assert max(p.start_s for p in plan_windows(2.0, 1.0, ["video"])) == 1.0
    long = plan_windows(7200.0, 1.0, ["audio"])
    assert len(long) == evidence.MOST_WINDOWS and long[-1].start_s == 7199.0


def test_evidence_lies_where_it_was_found() -> None:
    """Two seconds, wide frame: a spot in the square's top left corner, a sound in the third half-second, high up."""
    places = plan_windows(2.0, 1.0, ["video", "audio"])
    spot = np.full((2, 8, 8), -1.0, np.float32)
    spot[:, 0, 0] = 3.0
    sound = np.zeros((8, 8), np.float32)
    sound[6, :4] = 5.0
    maps = [(place, spot if place.modality == "video" else np.zeros((8, 8), np.float32)) for place in places[:-1]]
    found = assemble("a", 4, 2.0, 1.0, (90, 160), [*maps, (places[-1], sound)], SEEN)
    seen, heard = found.maps["video"].levels, found.maps["audio"].levels
    assert seen.shape == (4, 32, 57) and heard.shape == (32, 64)
    left = (57 - 32) // 2
    assert not seen[:, :, :left].any() and not seen[:, :, left + 32 :].any()
    assert np.unravel_index(seen[0].argmax(), (32, 57)) in [(y, left + x) for y in range(3) for x in range(3)]
    assert seen.max() == heard.max() == 255
    columns, bands = heard.max(0) > 128, heard.max(1) > 128
    assert columns.nonzero()[0].min() in range(31, 34) and columns.nonzero()[0].max() in range(46, 50)
    assert set(bands.nonzero()[0]) <= set(range(23, 29))
    assert found.maps["video"].peak == pytest.approx(3.0 * 64, rel=0.2)
    assert found.maps["audio"].peak == pytest.approx(5.0 * 64, rel=0.2)
    np.testing.assert_allclose(found.times_s, [0.25, 0.75, 1.25, 1.75])


def test_the_position_in_time_next_to_the_picture_is_shown() -> None:
    """The first picture of a short recording is shown early in its window, the last one late."""
    maps = np.zeros((2, 8, 8), np.float32)
    maps[0, 1, 1], maps[1, 6, 6] = 1.0, 1.0
    found = assemble("a", 0, 1.0, 1.0, (8, 8), [(place, maps) for place in plan_windows(1.0, 1.0, ["video"])], SEEN)
    assert found.maps.keys() == {"video"}
    where = [np.unravel_index(each.argmax(), each.shape) for each in found.maps["video"].levels]
    assert all(max(at) < 16 for at in where[:2]) and all(min(at) > 16 for at in where[2:])


@pytest.mark.parametrize("size", [48, 44, 64])
def test_a_position_is_shown_where_its_filters_are(tiny: Callable[..., Config], size: int) -> None:
    """The pixels that a position answers to lie around the place where the enlarged map shows it."""
    config = tiny(f"video.size={size}", f"video.decode_size={size}", "video.num_frames=4")
    model, augment, batch = make(config, 1)
    stages = evidence._stages("video", model.encoders["video"])
    for parameter in model.parameters():
        parameter.data.abs_().add_(1e-3)  # nothing cancels, and no unit is cut off
    inputs = augment(batch, random=False)["video"].abs().requires_grad_()
    number, values = evidence._positions(model.encoders["video"], stages, inputs, 6)
    assert number == 2 and values.shape[-1] < size // 6
    outputs: list[torch.Tensor] = []
    stages[number].register_forward_hook(lambda _, __, output: outputs.append(output))
    model.encoders["video"](inputs)
    across = torch.arange(size).float()
    for y, x in ((2, 3), (3, 2)):
        (gradient,) = torch.autograd.grad(outputs[0][0, :, 0, y, x].sum(), inputs, retain_graph=True)
        reach = gradient[0].abs().sum((0, 1))
        seen = [float((reach.sum(axis) * across).sum() / reach.sum()) for axis in (1, 0)]
        spot = np.zeros(values.shape[-2:])
        spot[y, x] = 1
        fine = evidence.enlarge(spot, (size, size), (size, size))
        assert np.unravel_index(fine.argmax(), fine.shape) == (8 * y, 8 * x)
        assert seen == pytest.approx([8 * y, 8 * x], abs=1.5)  # what filters reach ends at the border
    assert evidence.input_shape(config, "video") == inputs.shape[2:]


def test_maps_of_another_size_lie_at_the_same_places() -> None:
    ramp = np.arange(0, 48, 4.0)[None] + np.arange(0, 48, 4.0)[:, None]  # each position says its pixel
    fine = evidence.enlarge(ramp, (48, 48), (48, 48))
    inner = np.arange(45.0)
    np.testing.assert_allclose(fine[:45, :45], inner[:, None] + inner, atol=1e-4)
    assert (fine[45:] == fine[44]).all()  # beyond the last position
    same = np.random.default_rng(0).random((2, 5, 7))
    np.testing.assert_allclose(evidence.enlarge(same, (5, 7), (5, 7)), same, atol=1e-6)
    assert evidence.enlarge(same, (2, 5, 7), (4, 10, 14)).shape == (4, 10, 14)
    assert [evidence.nearest_position(share, 3, 6) for share in (0, 0.2, 0.26, 0.5, 0.7, 1)] == [0, 0, 1, 1, 2, 2]
    assert evidence.nearest_position(0.9, 1, 6) == 0 and evidence.nearest_position(0.99, 6, 6) == 5


def some(clip_id: str, cluster: int = 0) -> Evidence:
    value = int(clip_id) % 250
    places = plan_windows(2.0, 1.0, ["audio"])
    maps: list[tuple[Place, np.ndarray | None]] = [(p, np.full((4, 4), 1.0 + value, np.float32)) for p in places]
    return assemble(clip_id, cluster, 2.0, 1.0, (10, 10), maps, {"audio": (4, 4)})


def test_files_go_round_and_grow(tmp_path: Path) -> None:
    path = tmp_path / "evidence" / "train-h0.parquet"
    with EvidenceWriter(path, "a") as writer:
        for number in range(150):
            writer.add(some(str(number)))
    before = path.stat().st_mtime_ns
    with EvidenceWriter(path, "a") as writer:
        assert writer.clusters == {str(number): 0 for number in range(150)}
    assert path.stat().st_mtime_ns == before
    with EvidenceWriter(path, "a") as writer:
        writer.add(some("3", cluster=9))
        writer.add(some("500"))
    found = {each.id: each for each in read_evidence(path)}
    assert len(found) == 151 and found["3"].cluster == 9
    for clip_id in ("0", "149", "500"):
        (name, heard), (expected_name, expected) = *found[clip_id].maps.items(), *some(clip_id).maps.items()
        np.testing.assert_array_equal(heard.levels, expected.levels)
        assert name == expected_name == "audio" and heard.peak == expected.peak
    assert [each.name for each in path.parent.iterdir()] == [path.name]


def test_evidence_that_is_weak_for_its_cluster_is_shown_weak(tmp_path: Path) -> None:
    path = tmp_path / "train-h0.parquet"
    heat = np.array([[255, 100], [0, 51]], np.uint8)
    peaks = {("a", 0): 2.0, ("b", 0): 8.0, ("c", 0): 9.0, ("d", 1): 3.0, ("e", 1): None, ("f", 2): None}
    with EvidenceWriter(path, "a") as writer:
        for (name, cluster), peak in peaks.items():
            maps = {} if peak is None else {"audio": EvidenceMap(heat, peak)}
            writer.add(Evidence(name, cluster, 0.0, np.zeros(4), maps))
    found = {each.id: each.maps["audio"].levels if each.maps else None for each in read_faded(path)}
    assert found["e"] is None and found["f"] is None
    for name in "bcd":  # no weaker than the middle of their clusters
        np.testing.assert_array_equal(found[name], heat)
    np.testing.assert_array_equal(found["a"], np.rint(heat * 0.25))


def test_a_kill_costs_less_than_a_part_and_another_checkpoint_all(tmp_path: Path) -> None:
    path = tmp_path / "train-h0.parquet"
    killed = EvidenceWriter(path, "a")
    for number in range(130):
        killed.add(some(str(number)))
    del killed  # as SIGKILL leaves it: neither flushed nor merged
    assert not path.exists()
    with EvidenceWriter(path, "a") as writer:
        assert len(writer.clusters) == 128
        writer.add(some("128"))
    assert len(list(read_evidence(path))) == 129
    with EvidenceWriter(path, "b") as writer:
        assert not writer.clusters
        writer.add(some("7"))
    assert [each.id for each in read_evidence(path)] == ["7"]


def test_the_evidence_of_a_run(finished_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run, run)
    clusters = read_labels(run, "train").cluster_of(1)
    ids = list(clusters)[:5]
    path = evidence_for(run, "train", 1, ids[:2])
    first = list(read_evidence(path))
    assert evidence_for(run, "train", 1, ids) == path == run / "evidence" / "train-h1.parquet"
    found = {each.id: each for each in read_evidence(path)}
    assert {clip_id: each.cluster for clip_id, each in found.items()} == {clip_id: clusters[clip_id] for clip_id in ids}
    for each in first:  # in another batch, another day
        again = found[each.id]
        np.testing.assert_array_equal(each.maps["video"].levels, again.maps["video"].levels)
        assert each.maps["video"].levels.shape == (4, 32, 32)
        assert each.maps["audio"].levels.shape[0] == evidence.BANDS
    with pytest.raises(UsageError, match="no label of head 1"):
        evidence_for(run, "train", 1, ["none"])


def test_prepared_shards_give_the_evidence_of_their_files(
    finished_run: Path, demo_set: Path, cache_dir: Path, tmp_path: Path
) -> None:
    """The run of `finished_run`, as if it had been trained on shards of the same clips."""
    shards, run = tmp_path / "shards", tmp_path / "run"
    manifest = scan(demo_set, cache_dir, 1)
    prepare(manifest, shards, PrepareSettings("shards", 64, 0, 0, 8000, 95, 256), workers=1)
    shutil.copytree(finished_run, run)
    settings = run / "config.resolved.yaml"
    settings.write_text(settings.read_text().replace(f"root: {demo_set}", f"root: {shards}"))
    opened = open_prepared(load_config(settings))
    assert opened is not None and opened[1] is not None
    pq.write_table(judge_for(load_config(settings), opened[0]), run / "manifest.parquet")
    ids = read_labels(run, "train").ids.to_pylist()[:4]
    other = tmp_path / "other"
    shutil.copytree(finished_run, other)
    here, there = (list(read_evidence(evidence_for(folder, "train", 0, ids))) for folder in (run, other))
    assert [each.id for each in here] == [each.id for each in there] and here
    for mine, theirs in zip(here, there, strict=True):
        assert mine.maps.keys() == theirs.maps.keys() == {"video", "audio"}
        assert all(mine.maps[name].levels.shape == theirs.maps[name].levels.shape for name in mine.maps)
        seen, other = (one.maps["video"].levels.ravel() for one in (mine, theirs))
        assert np.corrcoef(seen, other)[0, 1] > 0.6  # JPEG lies between them


def test_an_encoder_without_stages_is_named(tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch) -> None:
    model, augment, batch = make(tiny())
    monkeypatch.setattr(model.encoders["audio"], "stages", ())
    with pytest.raises(UsageError, match="the encoder of audio names no stages"):
        find_evidence(model, augment, batch, torch.tensor([1, 2, 3]), 0, tiny())
