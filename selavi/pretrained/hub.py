"""A folder as the Hugging Face Hub expects it: settings as JSON, weights, and a card that says what they are.

Nothing is uploaded or downloaded here.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from selavi import __version__
from selavi.atomic import write_text
from selavi.config import Config, as_dict, load_run_config
from selavi.errors import UsageError
from selavi.guarded.json_file import as_written, read_json
from selavi.guarded.parquet import read_parquet
from selavi.labelling.rule import take_rule
from selavi.modalities import clip_seconds, reads_stills
from selavi.pretrained.weights import HUB_CARD, HUB_SETTINGS, HUB_WEIGHTS, Pretrained, StoredWeights
from selavi.pretrained.write import metadata_of, portable_settings, tensors_of
from selavi.runs.folder import RunFolder
from selavi.runs.record import read_status
from selavi.tensor_files import read_tensors, write_tensors
from selavi.wording import duration

_AGAIN = "`selavi convert --to hub` writes it again"
_SCORES = ("nmi", "ami", "ari", "accuracy", "purity", "used_clusters")


@dataclass(frozen=True)
class TrainingFacts:
    """What a card says of a training: numbers, and no path or name of a file."""

    num_recordings: int
    seconds: float
    """The length of all recordings."""
    state: str
    """What the labels were at its end, such as `settled`; empty where it is not known."""
    scores: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Scores of the chosen head by split, for the splits that were evaluated."""


def read_facts(run_dir: Path) -> TrainingFacts:
    """Collect what can be said of a run.

    Raises:
        UsageError: a file of the run is damaged.
    """
    files = RunFolder(run_dir)
    split = load_run_config(run_dir).data.train_split
    manifest = read_parquet(files.manifest, ["split", "status", "duration_s"])
    recordings = manifest.filter(pc.and_(pc.equal(manifest["split"], split), pc.equal(manifest["status"], "ok")))
    seconds = pc.sum(recordings["duration_s"]).as_py() or 0.0
    scores = {}
    for path in sorted(files.evaluation.glob("metrics_*.json")):
        if chosen := _read_scores(path):
            scores[path.stem.removeprefix("metrics_")] = chosen
    return TrainingFacts(len(recordings), seconds, str(read_status(run_dir).get("labels", "")), scores)


def write_hub(loaded: Pretrained, folder: Path, facts: TrainingFacts | None = None) -> tuple[Path, Path, Path]:
    """Write model.safetensors, config.json and README.md, which load reads back to the same network.

    Args:
        loaded: what is written; of the data's settings only the clip's stay.
        folder: made if it is missing.
        facts: of the training; None where nothing is known of it.

    Returns:
        The three paths.
    """
    weights, settings, card = folder / HUB_WEIGHTS, folder / HUB_SETTINGS, folder / HUB_CARD
    write_tensors(weights, tensors_of(loaded), metadata_of(loaded))
    write_text(settings, json.dumps(describe(loaded), indent=2) + "\n")
    write_text(card, model_card(loaded, facts))
    return weights, settings, card


def is_hub_folder(folder: Path) -> bool:
    """Whether a folder has weights or settings under the Hub's names."""
    return (folder / HUB_WEIGHTS).exists() or (folder / HUB_SETTINGS).exists()


def read_hub(folder: Path) -> StoredWeights:
    """Read what write_hub wrote.

    Raises:
        UsageError: a file is missing, damaged, or not of selavi.
    """
    path = folder / HUB_SETTINGS
    for file in (folder / HUB_WEIGHTS, path):
        if not file.exists():
            raise UsageError(f"{folder} lacks {file.name}; `selavi convert --to hub` writes it beside the others")
    content = read_json(path, _AGAIN)
    with as_written(path, _AGAIN):
        overrides = list(_overrides(content["selavi"]))
    tensors, metadata = read_tensors(folder / HUB_WEIGHTS)
    rule = take_rule(tensors)
    source = metadata.get("source") or str(folder)
    return StoredWeights(folder, tensors, None, overrides, rule, source, metadata.get("licence", ""))


def describe(loaded: Pretrained) -> dict[str, Any]:
    """The content of config.json: what the Hub shows, and under `selavi` every setting."""
    settings = as_dict(portable_settings(loaded.config))
    del settings["run_dir"]
    return {
        "model_type": "selavi",
        "library_name": "selavi",
        "selavi_version": __version__,
        "modalities": list(loaded.config.kinds),
        "num_features": dict(loaded.model.num_features),
        "num_heads": loaded.config.num_label_heads if loaded.rule is not None else 0,
        "num_clusters": loaded.config.heads.num_clusters if loaded.rule is not None else 0,
        "num_parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "selavi": settings,
    }


def model_card(loaded: Pretrained, facts: TrainingFacts | None) -> str:
    """The content of README.md."""
    config = loaded.config
    modalities = " and ".join(config.kinds)
    features = ", ".join(f"{count} for {name}" for name, count in loaded.model.num_features.items())
    lines = [
        "---",
        "library_name: selavi",
        "pipeline_tag: feature-extraction",
        f"tags: [self-supervised-learning, clustering, {', '.join(config.kinds)}]",
        "# Choose a licence before you publish this, for example:",
        "# license: apache-2.0",
        "---",
        "",
        f"# {loaded.source[0].upper()}{loaded.source[1:]}",
        "",
        f"Features and clusters of clips, from {modalities}, learned without labels by selavi, an implementation of "
        "SeLaVi (Asano et al., NeurIPS 2020, arXiv 2006.13662).",
        "",
        f"- Input: {_input_of(config)}, decoded as `config.json` says.",
        f"- Features: {features}.",
    ]
    if loaded.rule is not None:
        heads = f"{config.num_label_heads} head{'s' if config.num_label_heads != 1 else ''}"
        lines.append(f"- Clusters: {config.heads.num_clusters} under each of {heads}.")
    lines += [f"- Made by selavi {__version__}.", *([f"- Note: {loaded.licence}."] if loaded.licence else []), ""]
    if facts is not None:
        lines += _training_lines(loaded, facts)
    lines += [
        "## Use it",
        "",
        "```python",
        "import torch",
        "import selavi",
        "from selavi.pretrained import ClusterModel, example_clips",
        "",
        'loaded = selavi.load("path/of/this/folder")',
        "clips = example_clips(loaded.config, 2)  # noise; put decoded clips in its place",
        "with torch.no_grad():",
        "    outputs = ClusterModel(loaded)(*clips)",
        f"# {', '.join(_output_names(loaded))}",
        "```",
        "",
        "To train from its encoders, set `encoders.init` to this folder.",
        "",
    ]
    return "\n".join(lines)


def _input_of(config: Config) -> str:
    """What the networks read, in words."""
    if reads_stills(config):
        return "still pictures"
    return f"clips of {config.data.clip_s:g} s" if clip_seconds(config) else "vectors of clips"


def _training_lines(loaded: Pretrained, facts: TrainingFacts) -> list[str]:
    config = loaded.config
    of_media = f"recordings ({duration(facts.seconds)})" if clip_seconds(config) else "clips"
    of_media = "still pictures" if reads_stills(config) else of_media
    text = f"{facts.num_recordings:,} {of_media}, {config.trainer.max_epochs} epochs, seed "
    text += f"{config.seed}. No label took part in it."
    text += f" At its end the labels were {facts.state}." if facts.state else ""
    lines = ["## Training", "", text, ""]
    if facts.scores:
        lines += ["## Scores", "", "Of the head that was chosen without labels, against labels of people.", ""]
        lines += [f"| split | clips | {' | '.join(_SCORES)} |", f"|---|{'---:|' * (len(_SCORES) + 1)}"]
        lines += [_score_row(split, scores) for split, scores in facts.scores.items()]
        lines.append("")
    return lines


def _score_row(split: str, scores: Mapping[str, float]) -> str:
    cells = (f"{scores[name]:.3f}" if name != "used_clusters" else str(scores[name]) for name in _SCORES)
    return f"| {split} | {scores['n']:,} | {' | '.join(cells)} |"


def _output_names(loaded: Pretrained) -> list[str]:
    names = [f"{name} features (B, {count})" for name, count in loaded.model.num_features.items()]
    return [*names, *(["probabilities (H, B, K)"] if loaded.rule is not None else [])]


def _read_scores(path: Path) -> dict[str, float]:
    """The scores of the chosen head; none where the clips have no labels."""
    result = read_json(path, "measure the run again")
    with as_written(path, "measure the run again"):
        if not result["labelled"]:
            return {}
        return {name: result["chosen"][name] for name in ("n", *_SCORES)}


def _overrides(settings: Mapping[str, Any], section: str = "") -> Iterator[str]:
    """Settings as `section.key=value`: texts as they are, everything else as JSON, which is YAML."""
    for key, value in settings.items():
        if isinstance(value, dict) and not section:
            yield from _overrides(value, f"{key}.")
        else:
            yield f"{section}{key}={value if isinstance(value, str) else json.dumps(value)}"
