"""Released weights, on state dicts with the names and shapes that are known of them, and our own."""

import importlib.util
import logging
import pickle
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock
from torchvision.models.resnet import ResNet as TorchvisionResNet
from torchvision.models.video import R2Plus1D_18_Weights, r2plus1d_18
from torchvision.models.video import resnet as video_resnet

from selavi.config import Config, load_config
from selavi.encoders.r2plus1d import R2Plus1D
from selavi.encoders.resnet import ResNet
from selavi.errors import UsageError
from selavi.inference.predict import score_views
from selavi.labelling.rule import LabelRule
from selavi.labelling.scores import combine_scores
from selavi.pretrained import (
    NON_COMMERCIAL,
    ClusterModel,
    Pretrained,
    example_clips,
    export_onnx,
    export_program,
    load,
    load_encoders,
    write_weights,
)
from selavi.training.module import SelaviModule
from tools import convert, train

Tiny = Callable[..., Config]


# ---- the official release ----


def official_head(num_features: int, num_clusters: int) -> nn.Sequential:
    """As the facts say: linear without bias at 2, batch norm at 4, linear at 8, and nothing with weights between."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(num_features, num_features, bias=False),
        nn.Identity(),
        nn.BatchNorm1d(num_features),
        nn.ReLU(),
        nn.Identity(),
        nn.Dropout(0.3),
        nn.Linear(num_features, num_clusters),
    )


class Base(nn.Module):
    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base


class Block(nn.Module):
    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.block_forward = head


class Official(nn.Module):
    """The released network under its names, from torchvision's."""

    def __init__(self, video: nn.Module, audio: nn.Module, num_features: int, num_heads: int, num_clusters: int):
        super().__init__()
        self.video_network, self.audio_network = Base(video), Base(audio)
        for letter in "va":
            for head in range(num_heads):
                name = f"mlp_{letter}{head}" if num_heads > 1 else f"mlp_{letter}"
                self.add_module(name, Block(official_head(num_features, num_clusters)))
        for layer in self.modules():  # what training would leave there
            if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
                nn.init.uniform_(layer.running_mean, -0.1, 0.1)
                nn.init.uniform_(layer.running_var, 0.5, 2)
                nn.init.uniform_(layer.weight, 0.5, 1.5)
                layer.num_batches_tracked.fill_(17)


def official_network(num_heads: int, num_clusters: int) -> Official:
    torch.manual_seed(3)
    video = r2plus1d_18()
    video.fc = nn.Identity()
    audio = TorchvisionResNet(BasicBlock, [1, 1, 1, 1])
    audio.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    audio.fc = nn.Identity()
    return Official(video, audio, 512, num_heads, num_clusters)


def narrow_network(num_heads: int = 3, num_clusters: int = 5) -> Official:
    torch.manual_seed(3)
    return Official(R2Plus1D(8, 18), ResNet(1, 8, 9), 64, num_heads, num_clusters)


def checkpoint_of(network: nn.Module, num_heads: int, prefix: str = "module.") -> dict[str, Any]:
    return {
        "epoch": 45,
        "dist": [torch.ones(5) for _ in range(num_heads)],
        "model": {prefix + name: value for name, value in network.state_dict().items()},
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.01, "params": [0]}]},
        "selflabels": torch.zeros(20, num_heads, dtype=torch.int64),
    }


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Official, Path]]:
    """Ten heads of 309 clusters, in full size, in the format of torch 1.3."""
    network = official_network(10, 309)
    path = tmp_path_factory.mktemp("official") / "selavi_vgg_sound.pth"
    torch.save(checkpoint_of(network, 10), path, _use_new_zipfile_serialization=False)
    yield network.eval(), path
    path.unlink()


def test_the_names_and_shapes_are_those_of_the_facts(released: tuple[Official, Path]) -> None:
    state = released[0].state_dict()
    assert sum(p.numel() for p in released[0].video_network.parameters()) == 31_300_125
    assert sum(p.numel() for p in released[0].audio_network.parameters()) == 4_899_520
    assert sum(p.numel() for n, p in released[0].named_parameters() if n.startswith("mlp_v3.")) == 421_685
    expected = {
        "video_network.base.stem.0.weight": (45, 3, 1, 7, 7),
        "video_network.base.layer4.1.conv2.0.3.weight": (512, 1152, 3, 1, 1),
        "audio_network.base.conv1.weight": (64, 1, 7, 7),
        "audio_network.base.layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "mlp_v0.block_forward.2.weight": (512, 512),
        "mlp_a9.block_forward.4.running_var": (512,),
        "mlp_a9.block_forward.4.num_batches_tracked": (),
        "mlp_a9.block_forward.8.weight": (309, 512),
        "mlp_v9.block_forward.8.bias": (309,),
    }
    assert {name: tuple(state[name].shape) for name in expected} == expected


def test_official_weights_give_the_official_logits(
    released: tuple[Official, Path], caplog: pytest.LogCaptureFixture
) -> None:
    network, path = released
    with caplog.at_level(logging.WARNING, "selavi"):
        loaded = load(path)
    assert NON_COMMERCIAL in caplog.text and "commercial use" in NON_COMMERCIAL
    assert loaded.licence == NON_COMMERCIAL
    assert not loaded.model.training
    heads, audio, video = loaded.config.heads, loaded.config.audio, loaded.config.video
    assert (heads.num_heads, heads.num_clusters) == (10, 309)
    assert (audio.filter_bank, audio.num_mels, audio.sample_rate, audio.standardise) == ("psf", 257, 24000, "none")
    assert (video.num_frames, video.size, video.decode_size) == (30, 112, 112)
    assert loaded.rule is not None and loaded.rule.potentials.shape == (10, 309) and not loaded.rule.potentials.any()
    frames, sound = torch.randn(2, 3, 2, 16, 16), torch.randn(2, 1, 257, 20)
    with torch.no_grad():
        features = {"video": network.video_network.base(frames), "audio": network.audio_network.base(sound)}
        found = loaded.model.features({"video": frames, "audio": sound})
        logits = loaded.model.logits(found)
        for name, letter in (("video", "v"), ("audio", "a")):
            torch.testing.assert_close(found[name], features[name], rtol=1e-3, atol=1e-4)
            expected = [getattr(network, f"mlp_{letter}{h}").block_forward(features[name]) for h in range(10)]
            torch.testing.assert_close(logits[name], torch.stack(expected), rtol=1e-3, atol=1e-4)


def test_official_weights_hear_what_they_were_trained_on(released: tuple[Official, Path]) -> None:
    """(B, 1, 257, 99) for a second, with the 38 constant rows of the filter bank."""
    augment = load(released[1]).augment
    sound = torch.randint(-9000, 9000, (1, 24000), generator=torch.Generator().manual_seed(0)).to(torch.int16)
    spectrogram = augment.plain({"audio": sound})["audio"]
    assert spectrogram.shape == (1, 1, 257, 99)
    constant = (spectrogram == spectrogram[..., :1]).all(3)
    assert constant.sum() == 38
    assert spectrogram[0, 0][constant[0, 0]].unique().item() == pytest.approx(-36.0437, abs=1e-4)


@pytest.mark.parametrize(("num_heads", "prefix"), [(1, ""), (1, "module."), (2, "")])
def test_one_head_and_no_prefix(tmp_path: Path, num_heads: int, prefix: str) -> None:
    network = narrow_network(num_heads).eval()
    torch.save(checkpoint_of(network, num_heads, prefix), tmp_path / "x.pth.tar")
    loaded = load(tmp_path / "x.pth.tar")
    features = torch.randn(4, 64)
    with torch.no_grad():
        name = "mlp_a" if num_heads == 1 else "mlp_a1"
        expected = getattr(network, name).block_forward(features)
        torch.testing.assert_close(loaded.model.heads["audio"](features)[-1], expected)


def test_more_than_ten_heads_keep_their_order(tmp_path: Path) -> None:
    """mlp_v10 comes after mlp_v9, not after mlp_v1."""
    network = narrow_network(12)
    torch.save(checkpoint_of(network, 12), tmp_path / "x.pth")
    output = load(tmp_path / "x.pth").model.heads["video"].output
    for head in range(12):
        assert torch.equal(output.bias[head], getattr(network, f"mlp_v{head}").block_forward[8].bias)


def test_overrides_go_before_the_settings_of_a_file(tmp_path: Path) -> None:
    torch.save(checkpoint_of(narrow_network(), 3), tmp_path / "x.pth")
    loaded = load(tmp_path / "x.pth", ["audio.standardise=fixed", "modalities=[audio]", "data.root=/videos"])
    assert loaded.config.audio.standardise == "fixed"
    assert list(loaded.model.encoders) == list(loaded.model.heads) == ["audio"]
    assert loaded.config.data.root == "/videos"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("mlp_a2.block_forward.8.bias"), "lacks mlp_a2.block_forward.8.bias$"),
        (lambda s: [s.pop(n) for n in [*s] if n.startswith("mlp_v2.")], "2 video and 3 audio heads"),
        (lambda s: [s.pop(n) for n in [*s] if n.startswith("mlp_")], "no heads mlp_v0"),
        (lambda s: s.update({"mlp_v0.weight": torch.ones(2)}), "does not have, such as mlp_v0.weight"),
        (lambda s: s.update({"teacher.weight": torch.ones(2)}), "does not have, such as teacher.weight"),
        (lambda s: s.pop("video_network.base.layer3.0.conv1.1.bias"), "layer3.0.conv1.1.bias is missing"),
        (lambda s: s.pop("video_network.base.stem.3.weight"), "lacks the video encoder's stem.3.weight"),
        (lambda s: s.update({"audio_network.base.layer1.2.bn1.bias": torch.ones(8)}), "layer1.2.bn1.bias is unknown"),
        (lambda s: s.update({"mlp_v1.block_forward.8.weight": torch.ones(6, 64)}), "heads of unequal shapes"),
        (lambda s: s.update({"audio_network.base.bn1.bias": torch.ones(9)}), r"is \(9,\), expected \(8,\)"),
    ],
)
def test_other_networks_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    state = dict(narrow_network().state_dict())
    change(state)
    torch.save({"model": state}, tmp_path / "x.pth")
    with pytest.raises(UsageError, match=message):
        load(tmp_path / "x.pth")


# ---- files that are none, or more ----


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_no_code_of_a_file_is_run(tmp_path: Path, trap: Callable[[Path], object]) -> None:
    sprung = tmp_path / "sprung"
    torch.save({"model": narrow_network().state_dict(), "dist": trap(sprung)}, tmp_path / "trap.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(trap(sprung)))
    for name in ("trap.pth", "pickle.pth"):
        with pytest.raises(UsageError, match=name):
            load(tmp_path / name)
    assert not sprung.exists()


def test_a_file_that_needs_code_is_refused_with_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(checkpoint_of(narrow_network(), 3) | {"dist": np.ones(5)}, path)
    with pytest.raises(UsageError, match=r"more than tensors and plain values \(numpy\.\S+\).*refused.*python -c") as e:
        load(path)
    command = str(e.value).split('python -c "')[1].removesuffix('"')
    exec(command.replace("tensors.pth", str(tmp_path / "tensors.pth")), {})
    assert load(tmp_path / "tensors.pth").config.heads.num_heads == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (torch.ones(2), "holds a Tensor, expected tensors by name"),
        ([1], "holds a list"),
        ({"a": torch.ones(2)}, r"tensors such as a; expected those of the official SeLaVi release"),
        ({}, r"tensors such as \(none\)"),
    ],
)
def test_another_programs_file_is_refused(tmp_path: Path, content: object, message: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(UsageError, match=message):
        load(tmp_path / "x.pth")


def test_damaged_and_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save(narrow_network().state_dict(), path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"not a file of torch"):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match=r"x\.pth is not a file of torch\.save, or it is damaged"):
            load(path)
    with pytest.raises(UsageError, match=r"cannot read .*none\.pth: No such file"):
        load(tmp_path / "none.pth")
    with pytest.raises(UsageError, match=r"neither a run with a checkpoint nor a folder with weights\.safetensors"):
        load(tmp_path)


# ---- R(2+1)D of torchvision and XDC ----


def test_torchvisions_encoder(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    network = r2plus1d_18().eval()
    torch.save(network.state_dict(), tmp_path / "r2plus1d_18.pth")
    loaded = load(tmp_path / "r2plus1d_18.pth")
    assert loaded.config.modalities == ["video"]
    assert loaded.config.encoders.video_layout == "torchvision"
    assert loaded.rule is None  # the heads are random
    assert caplog.text == ""  # nothing to tell of the licence
    transforms = R2Plus1D_18_Weights.DEFAULT.transforms()
    assert (*loaded.config.video.mean, *loaded.config.video.std) == (*transforms.mean, *transforms.std)
    frames = torch.randint(0, 256, (2, 2, 112, 112, 3), dtype=torch.uint8)
    expected = (frames / 255 - torch.tensor(transforms.mean)) / torch.tensor(transforms.std)
    inputs = load(tmp_path / "r2plus1d_18.pth", ["video.decode_size=112"]).augment.plain({"video": frames})
    torch.testing.assert_close(inputs["video"], expected.permute(0, 4, 1, 2, 3), rtol=1e-4, atol=1e-4)
    network.fc = nn.Identity()
    small = inputs["video"][..., :32, :32]
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.model.features({"video": small})["video"], network(small), rtol=1e-3, atol=1e-4
        )


class OwnChannels(video_resnet.Conv2Plus1D):
    """As XDC's network: the number that the block gives is not used."""

    def __init__(self, in_planes: int, out_planes: int, _: int, stride: int = 1, padding: int = 1) -> None:
        midplanes = (in_planes * out_planes * 27) // (in_planes * 9 + 3 * out_planes)
        super().__init__(in_planes, out_planes, midplanes, stride, padding)


def test_xdcs_encoder(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = video_resnet.VideoResNet(
        video_resnet.BasicBlock, [OwnChannels] * 4, [2, 2, 2, 2], video_resnet.R2Plus1dStem
    ).eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm3d):
            layer.eps = 1e-3
            nn.init.uniform_(layer.running_var, 1e-4, 1e-2)  # small: the epsilon then shows
    state = {name: value for name, value in network.state_dict().items() if not name.startswith("fc.")}
    assert len(state["layer2.0.conv2.0.0.weight"]) == 288  # torchvision: 230
    torch.save(state, tmp_path / "xdc.pth")
    loaded = load(tmp_path / "xdc.pth")
    assert loaded.config.encoders.video_layout == "vmz"
    assert "XDC" in loaded.source
    network.fc = nn.Identity()
    clips = 0.01 * torch.randn(2, 3, 2, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.model.features({"video": clips})["video"], network(clips), rtol=1e-3, atol=1e-4
        )


def test_random_heads_are_the_same_each_time(tmp_path: Path) -> None:
    torch.save(R2Plus1D(4, 10).state_dict(), tmp_path / "x.pth")
    state = torch.random.get_rng_state()
    first, second = load(tmp_path / "x.pth"), load(tmp_path / "x.pth")
    assert torch.equal(torch.random.get_rng_state(), state)
    for name, value in first.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name])


# ---- ours ----


def test_a_run_is_written_and_read_back(finished_run: Path, tmp_path: Path) -> None:
    loaded = load(finished_run)
    paths = write_weights(loaded, tmp_path / "export")
    assert [path.name for path in paths] == ["weights.safetensors", "config.yaml"]
    for path in (tmp_path / "export", tmp_path / "export" / "weights.safetensors"):
        again = load(path)
        assert again.source == loaded.source
        assert torch.equal(again.rule.potentials, loaded.rule.potentials)  # type: ignore[arg-type]
        assert again.rule.potentials.any()  # type: ignore[union-attr]
        for name, value in loaded.model.state_dict().items():
            assert torch.equal(value, again.model.state_dict()[name])
        clips = example_clips(again.config, 2)
        for one, other in zip(ClusterModel(loaded)(*clips), ClusterModel(again)(*clips), strict=True):
            assert torch.equal(one, other)
    text = paths[1].read_text()
    assert str(loaded.config.data.root) not in text and str(finished_run) not in text
    assert replace(again.config, data=loaded.config.data, run_dir=loaded.config.run_dir) == loaded.config


def test_heads_on_concatenated_features_come_back(tiny: Tiny, tmp_path: Path) -> None:
    loaded = with_heads(tiny("labelling.source=concat"))
    write_weights(loaded, tmp_path)
    again = load(tmp_path)
    for name, value in loaded.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_weights_without_heads_come_back_without_heads(tmp_path: Path) -> None:
    torch.save(R2Plus1D(4, 10).state_dict(), tmp_path / "x.pth")
    loaded = load(tmp_path / "x.pth")
    write_weights(loaded, tmp_path)
    again = load(tmp_path)
    assert again.rule is None
    assert torch.equal(again.model.encoders["video"].stem[0].weight, loaded.model.encoders["video"].stem[0].weight)
    assert ClusterModel(again).output_names() == ["video_features"]


def test_the_notice_travels_with_the_weights(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(checkpoint_of(narrow_network(), 3), tmp_path / "x.pth")
    write_weights(load(tmp_path / "x.pth"), tmp_path)
    caplog.clear()
    assert load(tmp_path).licence == NON_COMMERCIAL
    assert NON_COMMERCIAL in caplog.text


def test_weights_need_their_settings(finished_run: Path, tmp_path: Path) -> None:
    write_weights(load(finished_run), tmp_path)
    with pytest.raises(UsageError, match=r"do not fit the settings: heads\.video\.\S+ is .* and \d+ more$"):
        load(tmp_path, ["heads.num_clusters=9"])
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(UsageError, match=r"needs config\.yaml beside it"):
        load(tmp_path)


def test_a_run_without_labels_is_refused(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    torch.save({"state_dict": {}}, tmp_path / "checkpoints" / "last.ckpt")
    with pytest.raises(UsageError, match="holds no label bank"):
        load(tmp_path)


# ---- training from them ----


def module(config: Config) -> SelaviModule:
    return SelaviModule(config, ["a", "b"], 1)


def test_encoders_start_from_weights_and_heads_do_not(finished_run: Path, tiny: Tiny) -> None:
    fresh, started = module(tiny()), module(tiny(f"encoders.init={finished_run}"))
    source = load(finished_run).model
    for name, value in started.model.state_dict().items():
        origin = source if name.startswith("encoders.") else fresh.model
        assert torch.equal(value, origin.state_dict()[name]), name
    assert not torch.equal(fresh.model.encoders["audio"].conv1.weight, started.model.encoders["audio"].conv1.weight)


def test_encoders_that_the_file_lacks_start_at_random(tiny: Tiny, tmp_path: Path) -> None:
    torch.save(R2Plus1D(4, 10).state_dict(), tmp_path / "x.pth")
    fresh, started = module(tiny()), module(tiny(f"encoders.init={tmp_path / 'x.pth'}"))
    for modality, same in (("video", False), ("audio", True)):
        first = next(fresh.model.encoders[modality].parameters())
        assert torch.equal(first, next(started.model.encoders[modality].parameters())) is same
    with pytest.raises(UsageError, match=r"has video, this run audio; choose other weights or modalities"):
        module(tiny(f"encoders.init={tmp_path / 'x.pth'}", "modalities=[audio]"))


def test_encoders_of_another_size_are_refused_with_the_settings_that_fit(tiny: Tiny, tmp_path: Path) -> None:
    torch.save(R2Plus1D(8, 18, "vmz").state_dict(), tmp_path / "x.pth")
    needed = r"they need encoders\.video_width=8 encoders\.video_depth=18 encoders\.video_layout=vmz$"
    with pytest.raises(UsageError, match=needed):
        module(tiny(f"encoders.init={tmp_path / 'x.pth'}"))


def test_other_inputs_are_told(tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.save(R2Plus1D(4, 10).state_dict(), tmp_path / "x.pth")
    config = tiny()
    assert load_encoders(module(config).model, config, tmp_path / "x.pth") == ["video"]
    assert "was trained with video.mean=(0.43216, 0.394666, 0.37645), this run has (0.45, 0.45, 0.45)" in caplog.text
    caplog.clear()
    config = tiny("video.mean=[0.43216,0.394666,0.37645]", "video.std=[0.22803,0.22145,0.216989]")
    load_encoders(module(config).model, config, tmp_path / "x.pth")
    assert caplog.text == ""


def test_a_run_starts_from_converted_weights_and_can_be_loaded_without_them(
    finished_run: Path, tiny_yaml: Path, tmp_path: Path
) -> None:
    weights, folder = tmp_path / "weights", tmp_path / "run"
    assert convert.main([str(finished_run), "--out", str(weights)]) == 0
    settings = [f"run_dir={folder}", f"encoders.init={weights}", "trainer.max_epochs=1"]
    assert train.main(["--config", str(tiny_yaml), *settings]) == 0
    for file in weights.iterdir():
        file.unlink()
    assert load(folder).config.encoders.init == str(weights)
    assert train.main(["--config", str(tiny_yaml), f"run_dir={tmp_path / 'none'}", f"encoders.init={weights}"]) == 2
    assert not (tmp_path / "none").exists()


# ---- other programs ----


def with_heads(config: Config) -> Pretrained:
    """Some network, with potentials that matter."""
    built = module(config)
    potentials = built.label_bank.rule.potentials
    rule = LabelRule(torch.linspace(-3, 3, potentials.numel()).view_as(potentials).double())
    for number, name in enumerate(config.branches):
        centre = torch.linspace(-0.1, 0.1, potentials.shape[1])
        rule.set_scale(0, {name: centre}, {name: 1.0 + number})
    return Pretrained(built.model.eval(), built.augment, config, rule, "a test", "")


def test_the_graph_gives_the_plans_rows(tiny: Tiny) -> None:
    config = tiny("labelling.weights={video: 1, audio: 3}")
    loaded = with_heads(config)
    clips = example_clips(config, 3)
    video, audio, probabilities = ClusterModel(loaded)(*clips)
    inputs = loaded.augment.plain({"video": clips[0], "audio": clips[1]})
    with torch.no_grad():
        features = loaded.model.features(inputs)
        logits = loaded.model.logits(features)
    assert torch.equal(video, features["video"]) and torch.equal(audio, features["audio"])
    present = {name: torch.ones(3, dtype=torch.bool) for name in logits}
    for head in range(2):
        each = loaded.rule.scale(head, {name: z[head].log_softmax(1) for name, z in logits.items()})
        scores = combine_scores(each, config.labelling.weights, present)
        assert loaded.rule is not None
        row = (20 * scores + loaded.rule.potentials[head]).softmax(1)
        torch.testing.assert_close(probabilities[head].double(), row, rtol=1e-4, atol=1e-6)
    assert ClusterModel(loaded).output_names() == ["video_features", "audio_features", "probabilities"]


@pytest.mark.parametrize("source", ["own", "cross", "concat"])
def test_the_graph_has_every_head_of_the_label_bank(tiny: Tiny, source: str) -> None:
    loaded = with_heads(tiny(f"labelling.source={source}"))
    clips = example_clips(loaded.config, 3)
    probabilities = ClusterModel(loaded)(*clips)[-1]
    present = {name: torch.ones(3, dtype=torch.bool) for name in ("video", "audio")}
    inputs = loaded.augment.plain({"video": clips[0], "audio": clips[1]})
    assert loaded.rule is not None
    assert probabilities.shape[0] == loaded.config.num_label_heads == len(loaded.rule.potentials)
    with torch.no_grad():
        logits = loaded.model(inputs, present)
    for column, potential in enumerate(loaded.rule.potentials):
        _, _, scores = score_views(logits, loaded.model.branch_present(present), 1, column, loaded.config, loaded.rule)
        row = (loaded.config.plan_sharpness * scores + potential).softmax(1)
        torch.testing.assert_close(probabilities[column].double(), row, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("bank", ["slaney", "psf"])
@pytest.mark.parametrize("source", ["joint", "concat"])
def test_torch_export_gives_the_same_for_any_number_of_clips(
    tiny: Tiny, tmp_path: Path, bank: str, source: str
) -> None:
    loaded = with_heads(tiny(f"audio.filter_bank={bank}", f"labelling.source={source}"))
    export_program(loaded, tmp_path / "model.pt2")
    program = torch.export.load(tmp_path / "model.pt2").module()
    for num_clips in (1, 5):
        clips = example_clips(loaded.config, num_clips, seed=num_clips)
        for found, expected in zip(program(*clips), ClusterModel(loaded)(*clips), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt2"]


def test_onnx_gives_the_same_for_any_number_of_clips(tiny: Tiny, tmp_path: Path) -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"ONNX is not tested: {', '.join(missing)} not installed")
    import onnxruntime

    loaded = with_heads(tiny())
    export_onnx(loaded, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [entry.name for entry in session.get_inputs()] == ["video", "audio"]
    assert [entry.name for entry in session.get_outputs()] == ClusterModel(loaded).output_names()
    for num_clips in (1, 5):
        clips = example_clips(loaded.config, num_clips, seed=num_clips)
        named = {"video": clips[0].numpy(), "audio": clips[1].numpy()}
        for found, expected in zip(session.run(None, named), ClusterModel(loaded)(*clips), strict=True):
            torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-3, atol=1e-4)


def test_onnx_names_the_packages_that_it_needs(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selavi.pretrained.program.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs onnx and onnxscript, not installed here: pip install onnx onnxscript"):
        export_onnx(with_heads(tiny()), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


# ---- the tool ----


def test_the_tool_writes_all_that_is_asked_for(
    finished_run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert convert.main([str(finished_run), "--to", "safetensors", "torch", "--out", str(tmp_path)]) == 0
    assert {file.name for file in tmp_path.iterdir()} == {"weights.safetensors", "config.yaml", "model.pt2"}
    told = capsys.readouterr().err
    assert f"encoders.init={tmp_path}" in told and f"selavi.pretrained.load('{tmp_path}')" in told


def test_the_tool_names_the_folder_of_a_file_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "downloads").mkdir()
    torch.save(checkpoint_of(narrow_network(), 3), tmp_path / "downloads" / "ave.pth.tar")
    monkeypatch.chdir(tmp_path)
    assert convert.main(["downloads/ave.pth.tar", "--set", "audio.standardise=fixed"]) == 0
    assert load_config(tmp_path / "ave" / "config.yaml").audio.standardise == "fixed"
    assert convert.main(["downloads/none.pth"]) == 2
    assert "error: downloads/none.pth: no such file or folder; expected a run, or weights" in capsys.readouterr().err
