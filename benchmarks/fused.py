"""What labelling gains from encoders whose batch norms are part of their convolutions.

    python benchmarks/fused.py   results and page, a minute of one core

Encoders of some recipes, in evaluation mode, on random inputs: as they are and fused (selavi/encoders/fused.py), in
turns, one thread.  Processor time of a batch, median of the rounds, and the largest difference of a feature as a share
of the largest feature.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from common import ROOT, describe_machine, markdown_table, measured_here, processor_seconds, publish

from selavi.config import load_config
from selavi.encoders.fused import fuse
from selavi.model import SelaviModel

ROUNDS = 15
RECIPES = {"demo": 32, "small": 32, "published": 1}
"""Clips of a batch."""


@torch.no_grad()
def measure(recipe: str, num_clips: int, rounds: int) -> list[dict[str, Any]]:
    """A row for each modality of a recipe."""
    config = load_config(ROOT / "configs" / f"{recipe}.yaml", ["data.root=unused", "data.demo=false"])
    video, audio = config.video, config.audio
    torch.manual_seed(0)
    inputs = {
        "video": torch.randn(num_clips, 3, video.num_frames, video.size, video.size),
        "audio": torch.randn(num_clips, 1, audio.num_mels, round(config.data.clip_s / audio.hop_s)),
    }
    about = {"environment": measured_here(), "recipe": recipe, "clips": num_clips}
    rows = []
    for name, encoder in SelaviModel(config).eval().encoders.items():
        given = inputs[name]
        ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"plain": encoder, "fused": fuse(encoder, given)}
        times = processor_seconds({way: partial(encode, given) for way, encode in ways.items()}, rounds)
        plain, fused = (encode(given) for encode in ways.values())
        difference = float((plain - fused).abs().max() / plain.abs().max())
        rows.append({**about, "modality": name, "difference": difference, **times})
    return rows


def page(rows: list[dict[str, Any]]) -> str:
    """docs/results/fused.md."""
    cells = [
        [
            f"configs/{row['recipe']}.yaml, {row['modality']}, {row['clips']} clips",
            *(f"{row[way] * 1000:,.0f}" for way in ("plain", "fused")),
            f"{row['plain'] / row['fused']:.2f}",
            f"{row['difference']:.0e}",
        ]
        for row in rows
    ]
    header = ["encoder, batch", "as it is, ms", "fused, ms", "times as fast", "difference"]
    return f"""# Fused encoders

{(__doc__ or "").split(chr(10) * 2)[2].strip()}

{markdown_table(header, cells)}

{describe_machine(rows)} By `python benchmarks/fused.py`.
"""


def main() -> None:
    torch.set_num_threads(1)
    rows = [row for recipe, num_clips in RECIPES.items() for row in measure(recipe, num_clips, ROUNDS)]
    publish("fused", "Fused encoders", rows, page(rows))


if __name__ == "__main__":
    main()
