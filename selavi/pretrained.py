"""Weights that others can use, and weights of others: read safely and by name, written in open formats.

Read: a run, a folder that `write_weights` made, the official SeLaVi release, R(2+1)D-18 of torchvision and of XDC.
Written: safetensors with the settings beside them, torch.export, ONNX.
"""

import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from selavi import __version__
from selavi.atomic import write_atomically
from selavi.augment import Augment
from selavi.config import Config, DataConfig, load_config, save_config
from selavi.distributed import rank
from selavi.errors import UsageError
from selavi.modalities import examples
from selavi.model import SelaviModel
from selavi.randomness import mix
from selavi.tensor_files import read_tensors, write_tensors
from selavi.wording import command

log = logging.getLogger("selavi")

WEIGHTS, SETTINGS = "weights.safetensors", "config.yaml"
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
_INPUT_SETTINGS = {
    "video": ("mean", "std"),
    "audio": ("filter_bank", "standardise", "sample_rate", "num_mels", "num_fft", "window_s", "hop_s"),
}
_NETWORKS = {"video": ("video_network.base.", "mlp_v"), "audio": ("audio_network.base.", "mlp_a")}
_NORM = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Pretrained:
    """A network with its weights and all that is needed to use it."""

    model: SelaviModel
    """In evaluation mode, on the CPU."""
    augment: Augment
    """Makes the inputs that the model expects."""
    config: Config
    potentials: Tensor | None
    """(H, K) float64, of the last labelling, 0 for the official weights; None where the file has no heads: those of the
    model are then random and name no clusters."""
    source: str
    """What the weights are and where they were read."""
    licence: str
    """A condition that comes with them; empty where none is known."""


def load(path: Path | str, overrides: Sequence[str] = ()) -> Pretrained:
    """Read weights and rebuild their network.

    Args:
        path: a run folder; a folder of write_weights (or its .safetensors file); a file of the official release
            (`.pth`, `.pth.tar`); or a file with an R(2+1)D-18 of torchvision or XDC, which has no heads.
        overrides: `section.key=value` settings that override those of the file, for example
            `modalities=[audio]` to take one encoder alone.

    Raises:
        UsageError: the file is missing, damaged, of no known kind, holds more than tensors and plain values, or
            does not fit the settings.
    """
    found = _read(Path(path))
    config = load_config(found.settings_file, [*found.settings, *overrides])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix(config.seed, "model"))
        model = SelaviModel(config)
    parts = ("encoders", "heads") if found.potentials is not None else ("encoders",)
    _fill(model, [f"{part}.{name}." for part in parts for name in config.modalities], found, config)
    _tell(found.licence)
    augment = Augment(config)
    return Pretrained(model.eval(), augment, config, found.potentials, found.source, found.licence)


def load_encoders(model: SelaviModel, config: Config, path: Path) -> list[str]:
    """Set a model's encoders, as far as the file has them, and say where the run's inputs are not what they expect.

    Args:
        model: changed in place; its heads stay.
        config: of the model.
        path: as in load.

    Returns:
        The modalities that were set.

    Raises:
        UsageError: as load, or the file has no encoder of the run's modalities.
    """
    found = _read(path)
    theirs = load_config(found.settings_file, found.settings)
    names = [name for name in config.modalities if name in theirs.modalities]
    if not names:
        raise UsageError(
            f"encoders.init={path} has {' and '.join(theirs.modalities)}, this run {' and '.join(config.modalities)}; "
            "choose other weights or modalities"
        )
    _fill(model, [f"encoders.{name}." for name in names], found, config, theirs)
    for name in names:
        mine, expected = getattr(config, name), getattr(theirs, name)
        for key in _INPUT_SETTINGS[name]:
            if getattr(mine, key) != getattr(expected, key) and rank() == 0:
                log.warning(
                    f"the {name} encoder of {path} was trained with {name}.{key}={getattr(expected, key)}, "
                    f"this run has {getattr(mine, key)}"
                )
    _tell(found.licence)
    return names


def write_weights(loaded: Pretrained, folder: Path) -> tuple[Path, Path]:
    """Write weights.safetensors and config.yaml, which load reads; of the data's settings only the clip's stay.

    Returns:
        The two paths.
    """
    tensors = dict(loaded.model.state_dict())
    if loaded.potentials is None:
        tensors = {name: tensor for name, tensor in tensors.items() if name.startswith("encoders.")}
    else:
        tensors["potentials"] = loaded.potentials
    data = DataConfig(clip_s=loaded.config.data.clip_s, audio_policy=loaded.config.data.audio_policy)
    encoders = replace(loaded.config.encoders, init="")
    settings = replace(loaded.config, run_dir="", resume="never", data=data, encoders=encoders)
    metadata = {"format": "pt", "selavi": __version__, "source": loaded.source, "licence": loaded.licence}
    weights_path, settings_path = folder / WEIGHTS, folder / SETTINGS
    write_tensors(weights_path, tensors, metadata)
    save_config(settings, settings_path)
    return weights_path, settings_path


# ---- reading ----


@dataclass(frozen=True)
class _Found:
    """What a file holds, under the names of SelaviModel."""

    path: Path
    state: Mapping[str, Tensor]
    settings_file: Path | None
    settings: Sequence[str]
    potentials: Tensor | None
    source: str
    licence: str = ""


def _read(path: Path) -> _Found:
    if path.is_dir():
        if (path / WEIGHTS).exists():
            return _read_own(path / WEIGHTS)
        if (path / "checkpoints" / "last.ckpt").exists():
            return _read_run(path)
        raise UsageError(f"{path} is neither a run with a checkpoint nor a folder with {WEIGHTS}")
    if path.suffix == ".safetensors":
        return _read_own(path)
    state = _tensors_of(path, _read_torch(path))
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if any(name.startswith(("video_network.", "audio_network.", "mlp_")) for name in state):
        return _official(path, state)
    if "stem.0.weight" in state:
        return _video_encoder(path, state)
    raise UsageError(
        f"{path} has tensors such as {', '.join(list(state)[:3]) or '(none)'}; expected those of the official SeLaVi "
        "release (video_network.base..., mlp_v0...) or of an R(2+1)D (stem.0.weight, ...)"
    )


def _read_torch(path: Path) -> Any:
    """torch.load with weights_only=True: nothing that a file says is run."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from error
    except UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        if named is None:
            raise UsageError(f"{path} is not a file of torch.save, or it is damaged") from error
        raise UsageError(
            f"{path} holds more than tensors and plain values ({named[1]}): reading it would run code that the file "
            'names, so it is refused.  If you trust where it came from, keep its tensors alone: python -c "import '
            f"torch; c = torch.load('{path}', weights_only=False); torch.save(c.get('model', c), 'tensors.pth')\""
        ) from error
    except Exception as error:  # torch raises many types for a damaged file
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{path} is not a file of torch.save, or it is damaged: {first}") from error


def _tensors_of(path: Path, content: Any) -> dict[str, Tensor]:
    """The tensors by name, themselves or under the key `model` or `state_dict`."""
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise UsageError(f"{path} holds a {type(content).__name__}, expected tensors by name")
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _read_own(path: Path) -> _Found:
    settings = path.with_name(SETTINGS)
    if not settings.exists():
        raise UsageError(f"{path} needs {SETTINGS} beside it, as {command('convert')} writes both")
    tensors, metadata = read_tensors(path)
    potentials = tensors.pop("potentials", None)
    source = metadata.get("source") or str(path)
    return _Found(path, tensors, settings, [], potentials, source, metadata.get("licence", ""))


def _read_run(folder: Path) -> _Found:
    checkpoint = _read_torch(folder / "checkpoints" / "last.ckpt")
    if not isinstance(checkpoint, dict) or not {"state_dict", "label_bank"} <= checkpoint.keys():
        raise UsageError(f"{folder}/checkpoints/last.ckpt is not a checkpoint of selavi: it holds no label bank")
    state = checkpoint["state_dict"].items()
    weights = {name.removeprefix("model."): value for name, value in state if name.startswith("model.")}
    potentials = checkpoint["label_bank"]["potentials"]
    source = f"run {folder.resolve().name} of selavi {__version__}"
    return _Found(folder, weights, folder / "config.resolved.yaml", [f"run_dir={folder}"], potentials, source)


def _official(path: Path, state: dict[str, Tensor]) -> _Found:
    """The names and shapes of the official release -> ours; the H heads become one tensor axis."""
    weights: dict[str, Tensor] = {}
    counts = {}
    for modality, (network, mlp) in _NETWORKS.items():
        for name in [name for name in state if name.startswith(network)]:
            weights[f"encoders.{modality}.{name.removeprefix(network)}"] = state.pop(name)
        numbers = {int(found[1] or 0) for name in state if (found := re.match(rf"{mlp}(\d*)\.", name))}
        counts[modality] = len(numbers)
        prefixes = [mlp] if f"{mlp}.block_forward.2.weight" in state else [f"{mlp}{h}" for h in range(len(numbers))]
        heads = [_head(path, state, f"{prefix}.block_forward.") for prefix in prefixes]
        if not heads:
            raise UsageError(f"{path} has no heads {mlp}0, {mlp}1, ...: it is no whole checkpoint of the official code")
        shapes = {tuple(head["8.weight"].shape) for head in heads}
        if len(shapes) > 1:
            raise UsageError(f"{path} has {mlp} heads of unequal shapes {sorted(shapes)}, expected one (K, D)")
        weights |= {
            f"heads.{modality}.hidden": torch.stack([head["2.weight"] for head in heads]),
            f"heads.{modality}.output.weight": torch.stack([head["8.weight"] for head in heads]),
            f"heads.{modality}.output.bias": torch.stack([head["8.bias"] for head in heads]),
            f"heads.{modality}.norm.num_batches_tracked": heads[0]["4.num_batches_tracked"],
            **{f"heads.{modality}.norm.{kind}": torch.cat([head[f"4.{kind}"] for head in heads]) for kind in _NORM},
        }
    if state:
        raise UsageError(
            f"{path} has tensors that the official network does not have, such as {', '.join([*state][:3])}"
        )
    if counts["video"] != counts["audio"]:
        raise UsageError(f"{path} has {counts['video']} video and {counts['audio']} audio heads, expected as many")
    num_heads, num_clusters = weights["heads.video.output.bias"].shape
    settings = [
        *_OFFICIAL_INPUTS,
        *_encoder_settings(path, weights, "video"),
        *_encoder_settings(path, weights, "audio"),
        f"heads.num_heads={num_heads}",
        f"heads.num_clusters={num_clusters}",
        f"labelling.head_groups={min(2, num_heads)}",
    ]
    potentials = torch.zeros(num_heads, num_clusters, dtype=torch.float64)  # its evaluation is without a marginal
    return _Found(path, weights, None, settings, potentials, f"official SeLaVi release, {path.name}", NON_COMMERCIAL)


def _head(path: Path, state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    names = ["2.weight", "8.weight", "8.bias", "4.num_batches_tracked", *(f"4.{kind}" for kind in _NORM)]
    missing = [prefix + name for name in names if prefix + name not in state]
    if missing:
        raise UsageError(f"{path} lacks {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""))
    return {name: state.pop(prefix + name) for name in names}


def _video_encoder(path: Path, state: dict[str, Tensor]) -> _Found:
    """An R(2+1)D alone, under torchvision's names; its classifier is left out."""
    weights = {f"encoders.video.{name}": value for name, value in state.items() if not name.startswith("fc.")}
    settings = ["modalities=[video]", *_KINETICS_COLOURS, *_encoder_settings(path, weights, "video")]
    vmz = "encoders.video_layout=vmz" in settings
    # torchvision's were trained on 16 frames at 15 a second, XDC's on 32 at 30
    settings += [] if vmz else ["video.num_frames=16"]
    kind = "XDC (layout of VMZ)" if vmz else "torchvision"
    return _Found(path, weights, None, settings, None, f"R(2+1)D of {kind}, {path.name}")


def _encoder_settings(path: Path, weights: Mapping[str, Tensor], modality: str) -> list[str]:
    """Width, depth and layout, told by the shapes."""
    prefix = f"encoders.{modality}."
    first, deeper = ("stem.3.weight", (10, 18)) if modality == "video" else ("conv1.weight", (9, 18))
    if prefix + first not in weights:
        raise UsageError(f"{path} lacks the {modality} encoder's {first}")
    depth = deeper[any(name.startswith(f"{prefix}layer1.1.") for name in weights)]
    settings = [f"encoders.{modality}_width={len(weights[prefix + first])}", f"encoders.{modality}_depth={depth}"]
    if modality == "video":
        pairs = [weights.get(f"{prefix}layer2.0.conv{n}.0.0.weight", torch.empty(0)) for n in (1, 2)]
        settings.append(f"encoders.video_layout={'torchvision' if len(pairs[0]) == len(pairs[1]) else 'vmz'}")
    return settings


def _fill(
    model: SelaviModel, prefixes: Sequence[str], found: _Found, config: Config, theirs: Config | None = None
) -> None:
    """Copy the parameters under some prefixes, all of them and nothing else.

    Raises:
        UsageError: names or shapes differ; where `theirs` is given, with the settings of encoders that would fit.
    """
    mine = {n: v for n, v in model.state_dict().items() if n.startswith(tuple(prefixes))}
    given = {n: v for n, v in found.state.items() if n.startswith(tuple(prefixes))}
    differing = [
        *(f"{name} is missing" for name in mine if name not in given),
        *(f"{name} is unknown" for name in given if name not in mine),
        *(
            f"{name} is {tuple(given[name].shape)}, expected {tuple(value.shape)}"
            for name, value in mine.items()
            if name in given and given[name].shape != value.shape
        ),
    ]
    if differing:
        fitting = ""
        if theirs is not None:
            read = tuple(f"{prefix.split('.')[1]}_" for prefix in prefixes)
            pairs = [(key, value) for key, value in vars(theirs.encoders).items() if key.startswith(read)]
            other = [f"encoders.{key}={value}" for key, value in pairs if value != getattr(config.encoders, key)]
            fitting = f"; they need {' '.join(other)}" if other else ""
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        raise UsageError(f"the weights of {found.path} do not fit the settings: {differing[0]}{more}{fitting}")
    model.load_state_dict(given, strict=False)


def _tell(licence: str) -> None:
    if licence and rank() == 0:
        log.warning(f"note: {licence}")


# ---- other programs ----


class ClusterModel(nn.Module):
    """Clips as they are decoded -> features of each modality and how well each cluster fits; all in one graph.

    Inputs, in the order of the run's modalities: video (B, T, h, w, 3) uint8 with the sides decode_size, audio (B, S)
    int16.  Outputs: features (B, D) of each modality, then, where there are heads, probabilities (H, B, K): the rows
    of the last labelling's plan, softmax(sharpness * mean log-probability + potential), for each
    head of the label bank.  Every clip is taken to have
    all modalities.
    """

    def __init__(self, loaded: Pretrained) -> None:
        super().__init__()
        config = loaded.config
        self.model, self.augment, self.modalities = loaded.model, loaded.augment, config.modalities
        self.label_sets, self.weights, self.sharpness = config.label_sets, config.branch_weights, config.plan_sharpness
        self.has_heads = loaded.potentials is not None
        potentials = loaded.potentials if loaded.potentials is not None else torch.zeros(0)
        self.register_buffer("potentials", potentials.float())
        self.potentials: Tensor
        self.eval().requires_grad_(False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        features = self.model.features(self.augment.plain(dict(zip(self.modalities, inputs, strict=True))))
        outputs = [features[name] for name in self.modalities]
        if self.has_heads:
            logits = self.model.logits(self.model.join(features)[0])
            scores = []
            for label_set in self.label_sets:
                weighed = [self.weights[name] * logits[name].log_softmax(2) for name in label_set.voters]
                scores.append(torch.stack(weighed).sum(0) / sum(self.weights[name] for name in label_set.voters))
            outputs.append((self.sharpness * torch.cat(scores) + self.potentials[:, None]).softmax(2))
        return tuple(outputs)

    def output_names(self) -> list[str]:
        """Names of the outputs, in their order."""
        return [f"{name}_features" for name in self.modalities] + ["probabilities"] * self.has_heads


def example_clips(config: Config, num_clips: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Noise with the shapes that ClusterModel reads."""
    values = examples(config, num_clips, mix(seed, "example clips"))
    return tuple(map(torch.from_numpy, values.values()))


def export_program(loaded: Pretrained, path: Path) -> None:
    """Write ClusterModel by torch.export; torch.export.load(path).module() runs it without selavi, for any B."""
    clips = example_clips(loaded.config, 2)
    program = torch.export.export(ClusterModel(loaded), clips, dynamic_shapes=_batch_axis(loaded))
    # through a file object: torch.export would refuse a name that does not end in .pt2
    with write_atomically(path) as temporary, temporary.open("wb") as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No complete tensor")  # channels-last weights are
        torch.export.save(program, file)


def export_onnx(loaded: Pretrained, path: Path) -> None:
    """Write ClusterModel as ONNX, weights inside, for any B.

    Raises:
        UsageError: onnx or onnxscript is not installed.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UsageError(f"ONNX needs {' and '.join(missing)}, not installed here: pip install {' '.join(missing)}")
    model = ClusterModel(loaded)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*axis name")  # of the second input, whose axis is that of the first
        program = torch.onnx.export(
            model,
            example_clips(loaded.config, 2),
            input_names=loaded.config.modalities,
            output_names=model.output_names(),
            dynamic_shapes=_batch_axis(loaded),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    with write_atomically(path) as temporary:
        program.save(temporary)


def _batch_axis(loaded: Pretrained) -> tuple[tuple[dict[int, Any], ...]]:
    batch = torch.export.Dim("clips", min=1)
    return (tuple({0: batch} for _ in loaded.config.modalities),)
