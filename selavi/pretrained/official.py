"""Released files of others -> our names: the official SeLaVi release, and R(2+1)D of torchvision and XDC.

What is said here of pictures and sound is what those files hold.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from selavi.errors import UsageError
from selavi.labelling.rule import LabelRule
from selavi.pretrained.weights import StoredWeights

NON_COMMERCIAL = (
    "these weights come from the official SeLaVi release, whose repository is under CC BY-NC 4.0: give credit, and no "
    "commercial use; the same may hold for what is trained from them"
)
# What the official weights were trained on (its training script); see docs/pretrained.md for what is not known.
_OFFICIAL_INPUTS = (
    "data.clip_s=1.0",
    "video.num_frames=30",
    "video.decode_size=112",
    "video.size=112",
    "audio.filter_bank=psf",
    "audio.standardise=none",
    "audio.sample_rate=24000",
    "audio.num_mels=257",
    "audio.num_fft=1024",
    "audio.window_s=0.02",
    "audio.hop_s=0.01",
)
_KINETICS_COLOURS = ("video.mean=[0.43216,0.394666,0.37645]", "video.std=[0.22803,0.22145,0.216989]")
_NORM = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class _Network:
    """How the files name a modality's encoder and heads, and what tells the encoder's size."""

    encoder: str
    heads: str
    first: str
    """A tensor of the encoder with as many rows as it has channels at first."""
    depths: tuple[int, int]
    """Layers of an encoder with one and with two blocks a stage."""


_NETWORKS = {
    "video": _Network("video_network.base.", "mlp_v", "stem.3.weight", (10, 18)),
    "audio": _Network("audio_network.base.", "mlp_a", "conv1.weight", (9, 18)),
}
_R2PLUS1D = "video"
_LAYOUT = f"encoders.{_R2PLUS1D}_layout"


def convert_state(path: Path, state: dict[str, Tensor]) -> StoredWeights:
    """Give the tensors of a released file our names.

    Raises:
        UsageError: it is of no known kind, or lacks tensors of its kind.
    """
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if any(
        name.startswith((network.encoder.split(".")[0], "mlp_")) for name in state for network in _NETWORKS.values()
    ):
        return _official_release(path, state)
    if "stem.0.weight" in state:
        return _r2plus1d(path, state)
    raise UsageError(
        f"{path} has tensors such as {', '.join(list(state)[:3]) or '(none)'}; expected those of the official SeLaVi "
        "release (video_network.base..., mlp_v0...) or of an R(2+1)D (stem.0.weight, ...)"
    )


def _official_release(path: Path, state: dict[str, Tensor]) -> StoredWeights:
    """The two networks and their heads; the H heads become one tensor axis."""
    weights: dict[str, Tensor] = {}
    for modality, network in _NETWORKS.items():
        for name in [name for name in state if name.startswith(network.encoder)]:
            weights[f"encoders.{modality}.{name.removeprefix(network.encoder)}"] = state.pop(name)
        weights |= _heads(path, state, modality, network.heads)
    if state:
        raise UsageError(
            f"{path} has tensors that the official network does not have, such as {', '.join([*state][:3])}"
        )
    shapes = {modality: tuple(weights[f"heads.{modality}.output.bias"].shape) for modality in _NETWORKS}
    counts = {modality: num_heads for modality, (num_heads, _) in shapes.items()}
    if len(set(counts.values())) > 1:
        heads = " and ".join(f"{count} {modality}" for modality, count in counts.items())
        raise UsageError(f"{path} has {heads} heads, expected as many")
    num_heads, num_clusters = next(iter(shapes.values()))
    settings = [
        *_OFFICIAL_INPUTS,
        *(setting for modality in _NETWORKS for setting in _size_settings(path, weights, modality)),
        f"heads.num_heads={num_heads}",
        f"heads.num_clusters={num_clusters}",
        f"labelling.head_groups={min(2, num_heads)}",
    ]
    rule = LabelRule.plain(num_heads, num_clusters)  # its evaluation is without a marginal
    source = f"official SeLaVi release, {path.name}"
    return StoredWeights(path, weights, None, settings, rule, source, NON_COMMERCIAL)


def _heads(path: Path, state: dict[str, Tensor], modality: str, mlp: str) -> dict[str, Tensor]:
    """Take the heads of a modality out of `state`: mlp_v where there is one, else mlp_v0, mlp_v1, ..."""
    numbers = {int(match[1] or 0) for name in state if (match := re.match(rf"{mlp}(\d*)\.", name))}
    single = f"{mlp}.block_forward.2.weight" in state
    prefixes = [mlp] if single else [f"{mlp}{head}" for head in range(len(numbers))]
    heads = [_head(path, state, f"{prefix}.block_forward.") for prefix in prefixes]
    if not heads:
        raise UsageError(f"{path} has no heads {mlp}0, {mlp}1, ...: it is no whole checkpoint of the official code")
    shapes = {tuple(head["8.weight"].shape) for head in heads}
    if len(shapes) > 1:
        raise UsageError(f"{path} has {mlp} heads of unequal shapes {sorted(shapes)}, expected one (K, D)")
    return {
        f"heads.{modality}.hidden": torch.stack([head["2.weight"] for head in heads]),
        f"heads.{modality}.output.weight": torch.stack([head["8.weight"] for head in heads]),
        f"heads.{modality}.output.bias": torch.stack([head["8.bias"] for head in heads]),
        f"heads.{modality}.norm.num_batches_tracked": heads[0]["4.num_batches_tracked"],
        **{f"heads.{modality}.norm.{kind}": torch.cat([head[f"4.{kind}"] for head in heads]) for kind in _NORM},
    }


def _head(path: Path, state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    names = ["2.weight", "8.weight", "8.bias", "4.num_batches_tracked", *(f"4.{kind}" for kind in _NORM)]
    missing = [prefix + name for name in names if prefix + name not in state]
    if missing:
        raise UsageError(f"{path} lacks {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""))
    return {name: state.pop(prefix + name) for name in names}


def _r2plus1d(path: Path, state: dict[str, Tensor]) -> StoredWeights:
    """An R(2+1)D alone, under torchvision's names; its classifier is left out."""
    weights = {f"encoders.{_R2PLUS1D}.{name}": value for name, value in state.items() if not name.startswith("fc.")}
    settings = [f"modalities=[{_R2PLUS1D}]", *_KINETICS_COLOURS, *_size_settings(path, weights, _R2PLUS1D)]
    vmz = f"{_LAYOUT}=vmz" in settings
    # torchvision's were trained on 16 frames at 15 a second, XDC's on 32 at 30
    settings += [] if vmz else ["video.num_frames=16"]
    kind = "XDC (layout of VMZ)" if vmz else "torchvision"
    return StoredWeights(path, weights, None, settings, None, f"R(2+1)D of {kind}, {path.name}")


def _size_settings(path: Path, weights: Mapping[str, Tensor], modality: str) -> list[str]:
    """Width, depth and layout of an encoder, by the shapes of its tensors."""
    prefix, network = f"encoders.{modality}.", _NETWORKS[modality]
    if prefix + network.first not in weights:
        raise UsageError(f"{path} lacks the {modality} encoder's {network.first}")
    depth = network.depths[any(name.startswith(f"{prefix}layer1.1.") for name in weights)]
    width = len(weights[prefix + network.first])
    settings = [f"encoders.{modality}_width={width}", f"encoders.{modality}_depth={depth}"]
    if modality == _R2PLUS1D:
        pairs = [weights.get(f"{prefix}layer2.0.conv{n}.0.0.weight", torch.empty(0)) for n in (1, 2)]
        settings.append(f"{_LAYOUT}={'torchvision' if len(pairs[0]) == len(pairs[1]) else 'vmz'}")
    return settings
