"""An encoder for use alone: batch norm, whose statistics are fixed then, becomes part of the convolution before it."""

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

CONVOLUTIONS = (nn.Conv2d, nn.Conv3d)


class FusedEncoders:
    """The encoders of a model, as they are when the first batch comes; see fuse.

    Args:
        encoders: in evaluation mode, by modality.
    """

    def __init__(self, encoders: Mapping[str, nn.Module]) -> None:
        self._encoders = encoders
        self._fused: dict[str, nn.Module] = {}

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Encode augmented clips: (B, ...) -> (B, D) a modality."""
        if not self._fused:
            self._fused = {name: fuse(encoder, inputs[name]) for name, encoder in self._encoders.items()}
        return {name: encoder(inputs[name]) for name, encoder in self._fused.items()}


@torch.no_grad()
def fuse(encoder: nn.Module, inputs: Tensor) -> nn.Module:
    """A copy of an encoder that gives the same features, but for rounding, in less time.

    With w, b of a convolution and m, v, g, s of the batch norm that reads it (mean, variance, weight, bias),
    g (w x + b - m) / sqrt(v) + s = (g / sqrt(v)) w x + g (b - m) / sqrt(v) + s.

    Args:
        encoder: in evaluation mode; nothing but its batch norms may read the convolutions before them.
        inputs: (B, ...) as it takes them, from which it is seen which batch norm reads which convolution.

    Returns:
        The encoder itself where there is nothing to fuse.
    """
    if not any(isinstance(layer, CONVOLUTIONS) for layer in encoder.modules()):
        return encoder
    copy = deepcopy(encoder)
    for convolution, norm in _pairs(copy, inputs[:1]):
        assert norm.running_mean is not None and norm.running_var is not None
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        _replace(copy, norm, nn.Identity())
    return copy


def _pairs(encoder: nn.Module, inputs: Tensor) -> list[tuple[nn.Conv2d | nn.Conv3d, _BatchNorm]]:
    """Each batch norm of an encoder that reads what a convolution has just given, with that convolution."""
    given: dict[int, tuple[nn.Conv2d | nn.Conv3d, Tensor]] = {}  # with the tensor, so that its id stays its own
    pairs = []

    def note_output(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(layer, CONVOLUTIONS)
        given[id(output)] = layer, output

    def note_reader(layer: nn.Module, read: tuple[Tensor, ...]) -> None:
        if id(read[0]) in given:
            assert isinstance(layer, _BatchNorm)
            pairs.append((given[id(read[0])][0], layer))

    hooks = []
    for layer in encoder.modules():
        if isinstance(layer, CONVOLUTIONS):
            hooks.append(layer.register_forward_hook(note_output))
        elif isinstance(layer, _BatchNorm):
            hooks.append(layer.register_forward_pre_hook(note_reader))
    encoder(inputs)
    for hook in hooks:
        hook.remove()
    return pairs


def _replace(encoder: nn.Module, layer: nn.Module, by: nn.Module) -> None:
    """Put another layer into an encoder in place of one."""
    for parent in encoder.modules():
        for name, child in parent.named_children():
            if child is layer:
                setattr(parent, name, by)
