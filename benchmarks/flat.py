"""What the video encoder gains from 2-D convolutions in place of 3-D ones, on a processor.

    python benchmarks/flat.py   results and page, some minutes of one core

Video encoders of some recipes on random inputs, with 3-D convolutions and with the same ones computed as 2-D
(FlatConv3d in selavi/encoders/r2plus1d.py), in turns, one thread.  Processor time of a batch, median of the rounds: of
a step, forward and backward, and of labelling, in evaluation mode without gradients.  Difference: the largest of a
feature, as a share of the largest feature.
"""

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from types import MethodType
from typing import Any

import torch
from common import ROOT, describe_machine, markdown_table, measured_here, processor_seconds, publish
from torch import Tensor, nn

from selavi.config import load_config
from selavi.encoders.r2plus1d import FlatConv3d
from selavi.model import SelaviModel

ROUNDS = 7
RECIPES = {"demo": 32, "small": 64, "medium": 2, "published": 1}
"""Clips of a batch."""


def with_3d_convolutions(encoder: nn.Module) -> nn.Module:
    """A copy that computes what FlatConv3d computes as 2-D convolutions as 3-D ones."""
    copy = deepcopy(encoder)
    for layer in copy.modules():
        if isinstance(layer, FlatConv3d):
            layer.forward = MethodType(nn.Conv3d.forward, layer)  # type: ignore[method-assign]
    return copy


def step(encoder: nn.Module, clips: Tensor) -> None:
    """Forward and backward."""
    encoder(clips).square().mean().backward()


@torch.no_grad()
def encode(encoder: nn.Module, clips: Tensor) -> None:
    """Forward alone."""
    encoder(clips)


MODES: dict[str, Callable[[nn.Module, Tensor], None]] = {"step": step, "labelling": encode}


def measure(recipe: str, num_clips: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each mode of a recipe."""
    config = load_config(ROOT / "configs" / f"{recipe}.yaml", ["data.root=unused", "data.demo=false"])
    torch.manual_seed(0)
    flat = SelaviModel(config).encoders["video"]
    encoders = {"3-D": with_3d_convolutions(flat), "2-D": flat}
    clips = torch.randn(num_clips, 3, config.video.num_frames, config.video.size, config.video.size)
    about = {"environment": measured_here(), "recipe": recipe, "clips": num_clips}
    rows = []
    for mode, work in MODES.items():
        for encoder in encoders.values():
            encoder.train(mode == "step")
        times = processor_seconds({way: partial(work, encoder, clips) for way, encoder in encoders.items()}, rounds)
        with torch.no_grad():
            solid, planar = (encoder(clips) for encoder in encoders.values())
        difference = float((solid - planar).abs().max() / solid.abs().max())
        rows.append({**about, "mode": mode, "difference": difference, **times})
    return rows


def page(rows: list[dict[str, Any]]) -> str:
    """docs/results/flat.md."""
    cells = [
        [
            f"configs/{row['recipe']}.yaml, {row['clips']} clips",
            row["mode"],
            *(f"{row[way] * 1000:,.0f}" for way in ("3-D", "2-D")),
            f"{row['3-D'] / row['2-D']:.2f}",
            f"{row['difference']:.0e}",
        ]
        for row in rows
    ]
    header = ["encoder, batch", "", "3-D convolutions, ms", "2-D, ms", "times as fast", "difference"]
    return f"""# 3-D convolutions as 2-D ones

{(__doc__ or "").split(chr(10) * 2)[2].strip()}

{markdown_table(header, cells)}

On a GPU this was not measured.

{describe_machine(rows)} By `python benchmarks/flat.py`.
"""


def main() -> None:
    torch.set_num_threads(1)
    rows = [row for recipe, num_clips in RECIPES.items() for row in measure(recipe, num_clips, ROUNDS)]
    publish("flat", "3-D convolutions as 2-D ones", rows, page(rows))


if __name__ == "__main__":
    main()
