"""What the gallery says of a run; imported late."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from selavi.config import Config
from selavi.results.gallery.build import About
from selavi.results.gallery.select import Head
from selavi.results.naming import Names

_FIGURES = {"nmi": "NMI", "ari": "ARI", "accuracy": "Accuracy", "purity": "Purity", "n": "Clips scored"}


@dataclass(frozen=True)
class Found:
    """What the tool has read of a run."""

    config: Config
    split: str
    manifest: pa.Table
    clips: pa.Table
    heads: list[Head]
    features: dict[str, np.ndarray]
    no_map: str | None
    head: int
    agreement: np.ndarray
    names: Names


def about_run(run_dir: Path, run: Found) -> About:
    """Title, figures and names for the page."""
    return About(
        title=f"{run_dir.resolve().name}, {run.split}",
        run=str(run_dir),
        split=run.split,
        chosen_head=run.head,
        figures=_figures(run_dir / "eval" / f"metrics_{run.split}.json", run.head),
        names=run.names.rows,
        agreement_of_heads=[None if np.isnan(score) else round(score, 3) for score in run.agreement.tolist()],
        seed=run.config.seed,
        no_map=run.no_map,
    )


def _figures(path: Path, head: int) -> list[tuple[str, str]]:
    """What tools/cluster_eval.py found for a head; nothing where it was not run."""
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    entry = found["heads"][head] if found["labelled"] else {}
    figures = [(name, entry[key]) for key, name in _FIGURES.items() if entry.get(key) is not None]
    return [(name, f"{value:.3f}" if isinstance(value, float) else f"{value:,}") for name, value in figures]
