"""Networks for other programs: one graph from decoded clips to features and clusters, by torch.export or as ONNX."""

import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from selavi.atomic import write_atomically
from selavi.config import Config
from selavi.errors import UsageError
from selavi.labelling.rule import LabelRule
from selavi.modalities import examples
from selavi.pretrained.weights import Pretrained
from selavi.randomness import mix


class ClusterModel(nn.Module):
    """Clips as they are decoded -> features of each modality and how well each cluster fits; all in one graph.

    Inputs: the decoded value of each modality, (B, ...), in the order of the run's modalities, such as frames
    (B, T, h, w, 3) uint8 with the sides decode_size and sound (B, S) int16.  Outputs: features (B, D) of each modality,
    then, where there are heads, probabilities (H, B, K): the rows of the last labelling's plan,
    softmax(sharpness * score + potential), for each head of the label bank.  Every clip is taken to have
    all modalities.
    """

    def __init__(self, loaded: Pretrained) -> None:
        super().__init__()
        config = loaded.config
        self.model, self.augment, self.modalities = loaded.model, loaded.augment, config.kinds
        self.label_sets, self.weights, self.sharpness = config.label_sets, config.branch_weights, config.plan_sharpness
        self.has_heads = loaded.rule is not None
        rule = loaded.rule or LabelRule.plain(config.num_label_heads, config.heads.num_clusters)
        self.register_buffer("potentials", rule.potentials.float())
        self.potentials: Tensor
        unscaled = torch.ones(len(rule.potentials), dtype=torch.float64)
        for name in config.branches:
            self.register_buffer(f"{name}_centres", rule.centres.get(name, torch.zeros_like(rule.potentials)).float())
            self.register_buffer(f"{name}_gains", rule.gains.get(name, unscaled).float())
        self.eval().requires_grad_(False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        features = self.model.features(self.augment.plain(dict(zip(self.modalities, inputs, strict=True))))
        outputs = [features[name] for name in self.modalities]
        if self.has_heads:
            logits = self.model.logits(self.model.join(features)[0])
            scores = []
            for label_set in self.label_sets:
                weighed = [
                    self.weights[name] * self._scaled(name, label_set.voting_columns, logits[name])
                    for name in label_set.voters
                ]
                scores.append(torch.stack(weighed).sum(0) / sum(self.weights[name] for name in label_set.voters))
            outputs.append((self.sharpness * torch.cat(scores) + self.potentials[:, None]).softmax(2))
        return tuple(outputs)

    def _scaled(self, branch: str, columns: range, logits: Tensor) -> Tensor:
        """The votes of a branch, (H, B, K) as LabelRule.scale."""
        rows = slice(columns.start, columns.stop)
        centres, gains = getattr(self, f"{branch}_centres")[rows], getattr(self, f"{branch}_gains")[rows]
        return (logits.log_softmax(2) - centres[:, None]) * gains[:, None, None]

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
            input_names=list(loaded.config.kinds),
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
    return (tuple({0: batch} for _ in loaded.config.kinds),)
