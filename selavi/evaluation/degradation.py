"""Clusters of clips whose picture or sound is degraded: NMI against severity.

Axes: N clips, B views of a batch, V views of a clip, D features, H heads.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from selavi.atomic import write_text
from selavi.augment import Augment
from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.errors import UsageError
from selavi.evaluation.corruptions import CLEAN, CORRUPTIONS, degrade_batch
from selavi.guarded.json_file import read_json
from selavi.inference.encode import ClipFeatures, average_views, combinations_of
from selavi.inference.predict import score_views
from selavi.labelling.bank import probe_of_bank
from selavi.labelling.rule import LabelRule
from selavi.model import SelaviModel
from selavi.randomness import mix
from selavi.scores.contingency import contingency_matrix
from selavi.scores.head_choice import choose_head
from selavi.scores.metrics import matched_accuracy, normalised_mutual_information
from selavi.wording import command


def check_names(names: Sequence[str], num_views: int) -> None:
    """Raise UsageError for an unknown corruption, or where there is no view."""
    unknown = [name for name in names if name not in CORRUPTIONS]
    if unknown:
        raise UsageError(f"no corruption {unknown[0]!r}; there are {', '.join(CORRUPTIONS)}")
    if num_views < 1:
        raise UsageError(f"--views must be at least 1, got {num_views}")


def same_clips(config: Config) -> tuple[Any, ...]:
    """What must be equal for runs to see the same decoded views."""
    data, video = config.data, config.video
    where = (data.root, data.list, data.source, data.train_split, data.audio_policy)
    return (*where, data.clip_s, video.num_frames, video.decode_size, config.audio.sample_rate)


Assign = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], int], np.ndarray]
"""(features (B, D) a modality, present (B,) of whole clips' views, V) -> clusters (B / V, H)."""


@dataclass(frozen=True)
class MeasuredLine:
    """One way to get clusters of a run's features: a line of the plot.

    Lines of one name are runs that differ in their seed.
    """

    name: str
    assign: Assign
    head: int
    """Whose figures count."""


@dataclass(frozen=True)
class Judge:
    """A run's encoders and the lines that read their features."""

    run: str
    key: str
    """Tells the run's last labelling from those of other runs."""
    model: SelaviModel
    augment: Augment
    lines: tuple[MeasuredLine, ...]


def head_clusters(
    features: Mapping[str, Tensor],
    present: Mapping[str, Tensor],
    num_views: int,
    *,
    model: SelaviModel,
    rule: LabelRule,
    config: Config,
) -> np.ndarray:
    """The likeliest cluster of every head, (B / V, H): as selavi.inference.predict, from features."""
    joined, there = model.join(features, present)
    logits, found = model.logits(joined), []
    for column, potential in enumerate(rule.potentials):
        _, _, scores = score_views(logits, there, num_views, column, config, rule)
        found.append((config.plan_sharpness * scores + potential.to(scores.device)).argmax(1))
    return torch.stack(found, 1).cpu().numpy()


def kmeans_clusters(
    features: Mapping[str, Tensor], present: Mapping[str, Tensor], num_views: int, *, centres: Tensor, kind: str
) -> np.ndarray:
    """The nearest of K centres, (B / V, 1)."""
    averaged, there = average_views(features, present, num_views)
    values, _ = combinations_of(ClipFeatures(averaged, there, {}))[kind]
    return torch.cdist(values.double(), centres.to(values.device)).argmin(1, keepdim=True).cpu().numpy()


def make_judge(
    name: str,
    run: Path,
    model: SelaviModel,
    augment: Augment,
    config: Config,
    bank: Mapping[str, Tensor],
    kmeans: Sequence[MeasuredLine] = (),
) -> Judge:
    """A run's own heads, of which the one chosen without labels counts, and lines of K-means.

    Args:
        name: of the line.
        run: its folder.
        model: in evaluation mode.
        augment: of the same configuration and device.
        config: of the run.
        bank: labels (M, H) and the tensors of the LabelRule of its last labelling.
        kmeans: of kmeans_lines.
    """
    rule = LabelRule.from_tensors(bank)
    assign = partial(head_clusters, model=model, rule=rule, config=config)
    line = MeasuredLine(name, assign, choose_head(bank["labels"].numpy(), probe=probe_of_bank(bank)).head)
    key = f"{mix(*(value.hex() for value in rule.potentials.flatten().tolist())):016x}"
    return Judge(str(run), key, model, augment, (line, *kmeans))


def kmeans_lines(
    name: str, clips: ClipFeatures, kinds: Iterable[str], num_clusters: int, seed: int
) -> list[MeasuredLine]:
    """K-means on features of undegraded training clips; degraded clips then go to the nearest centre.

    Args:
        name: of the run.
        clips: features of the training clips.
        kinds: names of combinations_of; those that the run does not have are left out.
        num_clusters: K.
        seed: of the ten restarts.
    """
    from sklearn.cluster import KMeans

    lines = []
    for kind, (values, has_kind) in combinations_of(clips).items():
        if kind in kinds:
            table = values[has_kind].double().numpy()
            kmeans = KMeans(num_clusters, n_init=10, random_state=seed).fit(table)
            centres = torch.from_numpy(kmeans.cluster_centers_)
            lines.append(
                MeasuredLine(f"{name}, K-means on {kind}", partial(kmeans_clusters, centres=centres, kind=kind), 0)
            )
    return lines


@torch.no_grad()
def measure(
    batches: Iterable[ClipBatch],
    name: str,
    severities: Sequence[float],
    judges: Sequence[Judge],
    clips: pa.Table,
    *,
    num_views: int,
    seed: int,
    config: Config,
) -> list[dict[str, Any]]:
    """Score every line under one corruption; each clip is decoded once for all severities.

    Args:
        batches: `num_views` views of each clip in a row.
        name: a key of CORRUPTIONS, or CLEAN.
        severities: of it.
        judges: runs that see the same clips.
        clips: id and label of N clips, which the batches' index counts; those without a label are not scored.
        num_views: V.
        seed: of what is random.
        config: that the views are decoded with.

    Returns:
        Rows as in DegradationTable.

    Raises:
        UsageError: no clip has a label, or none could be decoded.
    """
    ids, labels = clips["id"].to_pylist(), clips["label"].to_pylist()
    lines = [(judge, line) for judge in judges for line in judge.lines]
    clusters: dict[tuple[int, float], list[np.ndarray]] = {
        (place, severity): [] for place in range(len(lines)) for severity in severities
    }
    kept: list[str] = []
    for batch in batches:
        batch = _scored(batch, labels, num_views)
        if not len(batch.index):
            continue
        kept += [str(labels[row]) for row in batch.index[::num_views].tolist()]
        for severity in severities:
            changed = degrade_batch(batch, name, severity, ids=ids, num_views=num_views, seed=seed, config=config)
            place = 0
            for judge in judges:
                moved = changed.to(next(judge.model.parameters()).device)
                features = judge.model.features(judge.augment(moved, random=False))
                present = {modality: moved.present[modality] for modality in features}
                for line in judge.lines:
                    clusters[place, severity].append(line.assign(features, present, num_views))
                    place += 1
    if not kept:
        raise UsageError("no clip has a label and can be decoded, so there is no NMI to compute")
    rows = []
    for (place, severity), parts in clusters.items():
        judge, line = lines[place]
        matrices = [contingency_matrix(kept, head) for head in np.concatenate(parts).T]
        row = {"line": line.name, "run": judge.run, "key": judge.key, "corruption": name, "severity": severity}
        row["nmi"] = normalised_mutual_information(matrices[line.head])
        row["accuracy"] = matched_accuracy(matrices[line.head])
        row["nmi_heads"] = [normalised_mutual_information(matrix) for matrix in matrices]
        rows.append({**row, "clips": len(kept)})
    return rows


class DegradationTable:
    """Rows of figures in a file, one for each (line, run, corruption, severity); what is there is not measured again.

    Args:
        folder: of degradation_SPLIT.json, .csv and .svg.
        split: of the clips.
        num_views: of each clip.
        seed: of what is random.

    Raises:
        UsageError: the file there was made with other settings, or is damaged.
    """

    def __init__(self, folder: Path, split: str, num_views: int, seed: int) -> None:
        self.path = folder / f"degradation_{split}.json"
        self.settings: dict[str, Any] = {"split": split, "views": num_views, "seed": seed}
        self.rows: list[dict[str, Any]] = []
        if self.path.exists():
            try:
                settings = read_json(self.path)
                self.rows = settings.pop("rows")
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UsageError(
                    f"{self.path} is not a table of {command('degrade')}; move it, or name another --out"
                ) from error
            if settings != self.settings:
                raise UsageError(f"{self.path} was made with {settings}, not {self.settings}; name another --out")

    def missing(self, judges: Sequence[Judge], name: str) -> list[float]:
        """Severities of a corruption that some line has no row for, from mild to worst."""
        done = {(row["line"], row["key"], row["corruption"], row["severity"]) for row in self.rows}
        severities = (0.0,) if name == CLEAN else CORRUPTIONS[name].severities
        lines = [(line.name, judge.key) for judge in judges for line in judge.lines]
        return [s for s in severities if any((*line, name, s) not in done for line in lines)]

    def measure(
        self,
        batches: Iterable[ClipBatch],
        name: str,
        severities: Sequence[float],
        judges: Sequence[Judge],
        clips: pa.Table,
        config: Config,
    ) -> None:
        """Measure one corruption (see the function of this name) and add its rows."""
        num_views, seed = self.settings["views"], self.settings["seed"]
        self.add(measure(batches, name, severities, judges, clips, num_views=num_views, seed=seed, config=config))

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take up rows, in the place of older ones of the same key, and write the JSON and the CSV."""

        def key(row: Mapping[str, Any]) -> tuple[Any, ...]:
            return tuple(row[name] for name in ("line", "key", "corruption", "severity"))

        merged = {key(row): dict(row) for row in (*self.rows, *rows)}
        self.rows = list(merged.values())
        write_text(self.path, json.dumps({**self.settings, "rows": self.rows}, indent=2) + "\n")
        text = io.StringIO()
        columns = ("line", "run", "corruption", "severity", "nmi", "accuracy", "clips")
        writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_text(self.path.with_suffix(".csv"), text.getvalue())


def _scored(batch: ClipBatch, labels: Sequence[str | None], num_views: int) -> ClipBatch:
    """The clips of a batch that have a label and of which some view has a modality."""
    has_any = torch.stack(list(batch.present.values())).any(0).unflatten(0, (-1, num_views)).any(1)
    is_labelled = torch.tensor([labels[row] is not None for row in batch.index[::num_views].tolist()])
    keep = (has_any & is_labelled).repeat_interleave(num_views)
    return ClipBatch(
        batch.index[keep],
        {name: values[keep] for name, values in batch.inputs.items()},
        {name: mask[keep] for name, mask in batch.present.items()},
        batch.draws[keep],
        [],
    )
