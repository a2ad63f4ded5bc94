"""Clusters of clips whose picture or sound is degraded: NMI against severity.

The evaluation views are degraded before the augmentation, as uint8 frames and int16 sound; what is random is a function
of (seed, corruption, clip id, view), so each severity takes the same noise further.

Axes: N clips, B views of a batch, V views of a clip, T frames, S samples, D features, H heads.
"""

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from torch import Tensor

from selavi.atomic import write_text
from selavi.augment import Augment
from selavi.batch import ClipBatch
from selavi.config import Config
from selavi.errors import UsageError
from selavi.evaluation.charts import Bars, Chart, Curve, bar_chart, line_chart
from selavi.guarded.json_file import read_json
from selavi.inference.encode import ClipFeatures, average_views, combinations_of
from selavi.inference.predict import score_views
from selavi.labelling.bank import probe_of_bank
from selavi.labelling.rule import LabelRule
from selavi.media import recompress
from selavi.model import SelaviModel
from selavi.randomness import mix
from selavi.scores.contingency import contingency_matrix
from selavi.scores.head_choice import choose_head
from selavi.scores.metrics import matched_accuracy, normalised_mutual_information
from selavi.wording import command

CLEAN = "clean"
"""Name of what is not degraded; its severity is 0."""
MAX_LINES = 7
"""That one chart can show."""
DROPPED_S = 0.05
"""Seconds of one hole in dropped sound."""


@dataclass(frozen=True)
class Span:
    """What a degradation needs to know of a view."""

    clip_s: float
    sample_rate: int
    rng: np.random.Generator


Degrade = Callable[[np.ndarray, float, Span], np.ndarray]
"""(frames (T, h, w, 3) uint8 or sound (S,) int16, severity, span) -> the same shape and type."""


@dataclass(frozen=True)
class Corruption:
    """One way to degrade a modality, with its severities from mild to worst."""

    modality: Literal["video", "audio"]
    title: str
    unit: str
    severities: tuple[float, ...]
    degrade: Degrade | None
    """None: the modality is missing."""


def compress_video(frames: np.ndarray, severity: float, span: Span) -> np.ndarray:
    """H.264 at a constant rate factor, really encoded and decoded, at the frame rate of the view."""
    return recompress(frames, fps=len(frames) / span.clip_s, crf=round(severity))


def lower_resolution(frames: np.ndarray, severity: float, span: Span) -> np.ndarray:
    """Shrink each side by a factor (mean of the pixels), and enlarge it bilinearly."""
    planes = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    small = [max(1, round(side / severity)) for side in planes.shape[2:]]
    shrunk = F.interpolate(planes, small, mode="area")
    back = F.interpolate(shrunk, planes.shape[2:], mode="bilinear", align_corners=False)
    return back.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()


def blur_video(frames: np.ndarray, severity: float, span: Span) -> np.ndarray:
    """Gaussian blur, whose standard deviation is a share of the short side."""
    from scipy.ndimage import gaussian_filter

    sigma = severity * min(frames.shape[1:3])
    return gaussian_filter(frames.astype(np.float32), (0, sigma, sigma, 0), mode="nearest").round().astype(np.uint8)


def add_video_noise(frames: np.ndarray, severity: float, span: Span) -> np.ndarray:
    """Add independent Gaussian noise to every value; `severity` is its standard deviation, on the scale to 255."""
    noise = span.rng.standard_normal(frames.shape, dtype=np.float32)
    return (frames + severity * noise).round().clip(0, 255).astype(np.uint8)


def freeze_video(frames: np.ndarray, severity: float, span: Span) -> np.ndarray:
    """Repeat the last moving frame over a share of the clip; 1 leaves the first frame alone."""
    moving = max(1, round((1 - severity) * len(frames)))
    return frames[np.minimum(np.arange(len(frames)), moving - 1)]


def add_audio_noise(sound: np.ndarray, severity: float, span: Span) -> np.ndarray:
    """Add white noise at a signal-to-noise ratio in dB; silence stays silent, and nothing is clipped."""
    signal = sound.astype(np.float64)
    power = np.mean(signal**2) / 10 ** (severity / 10)
    mixed = signal + np.sqrt(power) * span.rng.standard_normal(signal.shape)
    return (mixed / max(1.0, np.abs(mixed).max(initial=0) / 32767)).round().astype(np.int16)


def low_pass_audio(sound: np.ndarray, severity: float, span: Span) -> np.ndarray:
    """Remove what is above a frequency in Hz (Butterworth, order 8, there and back, so without delay)."""
    from scipy.signal import butter, sosfiltfilt

    if severity >= span.sample_rate / 2:
        return sound
    filtered = sosfiltfilt(butter(8, severity, fs=span.sample_rate, output="sos"), sound.astype(np.float64))
    return filtered.round().clip(-32768, 32767).astype(np.int16)


def drop_audio(sound: np.ndarray, severity: float, span: Span) -> np.ndarray:
    """Silence a share of the sound, in holes of DROPPED_S."""
    size = max(1, round(DROPPED_S * span.sample_rate))
    order = span.rng.permutation(-(-len(sound) // size))
    lost = order[: round(severity * len(order))]
    return np.where(np.isin(np.arange(len(sound)) // size, lost), 0, sound).astype(np.int16)


CORRUPTIONS: dict[str, Corruption] = {
    "compression": Corruption("video", "compressed picture", "CRF of H.264", (23, 29, 35, 41, 46, 51), compress_video),
    "resolution": Corruption("video", "low resolution", "times fewer pixels a side", (2, 4, 8, 16), lower_resolution),
    "blur": Corruption(
        "video", "blurred picture", "standard deviation, share of the side", (0.01, 0.02, 0.04, 0.08), blur_video
    ),
    "video_noise": Corruption(
        "video", "noisy picture", "standard deviation, of 255", (8, 16, 32, 64, 128), add_video_noise
    ),
    "frozen": Corruption("video", "frozen picture", "share of the clip", (0.25, 0.5, 0.75, 1.0), freeze_video),
    "audio_noise": Corruption(
        "audio", "noisy sound", "signal-to-noise ratio in dB", (20, 10, 5, 0, -5, -10), add_audio_noise
    ),
    "low_pass": Corruption(
        "audio", "muffled sound", "highest frequency in Hz", (4000, 2000, 1000, 500, 250), low_pass_audio
    ),
    "dropped": Corruption("audio", "holes in the sound", "share of the clip", (0.25, 0.5, 0.75, 1.0), drop_audio),
    "no_video": Corruption("video", "picture missing", "share of the clips", (1.0,), None),
    "no_audio": Corruption("audio", "sound missing", "share of the clips", (1.0,), None),
}


def degrade_batch(
    batch: ClipBatch, name: str, severity: float, *, ids: Sequence[str], num_views: int, seed: int, config: Config
) -> ClipBatch:
    """Degrade every view of a batch; a batch without the modality comes back as it is.

    Args:
        batch: `num_views` views of each clip in a row, on the CPU.
        name: a key of CORRUPTIONS, or CLEAN.
        severity: one of the corruption's.
        ids: of the clips that `batch.index` counts.
        num_views: V.
        seed: of what is random.
        config: that the views were decoded with.

    Raises:
        ValueError: there is no such corruption.
    """
    if name == CLEAN:
        return batch
    if name not in CORRUPTIONS:
        raise ValueError(f"no corruption {name!r}; there are {', '.join((CLEAN, *CORRUPTIONS))}")
    corruption = CORRUPTIONS[name]
    modality, degrade = corruption.modality, corruption.degrade
    if modality not in batch.inputs:
        return batch
    if degrade is None:
        missing = torch.zeros_like(batch.present[modality])
        nothing = torch.zeros_like(batch.inputs[modality])
        return replace(batch, inputs=batch.inputs | {modality: nothing}, present=batch.present | {modality: missing})

    def one(place: int) -> Tensor:
        key = mix(seed, "degrade", name, ids[int(batch.index[place])], place % num_views)
        span = Span(config.data.clip_s, config.audio.sample_rate, np.random.default_rng(key))
        changed = degrade(batch.inputs[modality][place].numpy(), severity, span)
        return torch.from_numpy(np.ascontiguousarray(changed))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        changed = list(pool.map(one, range(len(batch.index))))
    return replace(batch, inputs=batch.inputs | {modality: torch.stack(changed)})


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


Points = list[tuple[float | None, list[float]]]
"""(severity, NMI of each run of a line); None for the undegraded clips, which come first."""


def curves(rows: Sequence[Mapping[str, Any]], name: str) -> dict[str, Points]:
    """The points of each line under one corruption; none of a line that was not measured under it."""
    points_by_line: dict[str, dict[float | None, list[float]]] = {}
    for row in rows:
        if row["corruption"] in (name, CLEAN):
            severity = None if row["corruption"] == CLEAN else float(row["severity"])
            points_by_line.setdefault(row["line"], {}).setdefault(severity, []).append(float(row["nmi"]))
    order = (None, *CORRUPTIONS[name].severities)
    return {
        line: [(severity, points[severity]) for severity in order if severity in points]
        for line, points in points_by_line.items()
        if set(points) - {None}
    }


def format_degradation(rows: Sequence[Mapping[str, Any]]) -> str:
    """Tables to read: one for each corruption, a line each, its mean NMI at every severity."""
    blocks = []
    for name, corruption in CORRUPTIONS.items():
        lines = curves(rows, name)
        if not lines:
            continue
        width = max(30, *(len(line) + 2 for line in lines))
        head = "".join(f"{severity:>9g}" for severity in corruption.severities)
        blocks.append(f"{corruption.title} ({corruption.unit}), NMI\n{'':{width}}{CLEAN:>9}{head}")
        for line, points in lines.items():
            means = {severity: float(np.mean(each)) for severity, each in points}
            cells = (f"{means[s]:9.3f}" if s in means else f"{'-':>9}" for s in (None, *corruption.severities))
            blocks.append(f"{line:{width}}{''.join(cells)}")
        blocks.append("")
    return "\n".join(blocks).rstrip()


def write_plots(rows: Sequence[Mapping[str, Any]], folder: Path, split: str) -> list[Path]:
    """Draw degradation_SPLIT_CORRUPTION.svg, one line a run; of several runs of one name the mean, and their range.

    Missing modalities share one chart of bars.  More than MAX_LINES lines go on in a second file, and so on.
    """
    lines = list(dict.fromkeys(str(row["line"]) for row in rows))
    paths = []
    for number, first in enumerate(range(0, len(lines), MAX_LINES)):
        shown = lines[first : first + MAX_LINES]
        ending = f"{f'-{number + 1}' if number else ''}.svg"
        for name, corruption in CORRUPTIONS.items():
            points_by_line = {line: points for line, points in curves(rows, name).items() if line in shown}
            if points_by_line and corruption.degrade is not None:
                figure = _chart(points_by_line, corruption, split)
                paths.append(figure.save(folder / f"degradation_{split}_{name}{ending}"))
        missing = {name: curves(rows, name) for name, corruption in CORRUPTIONS.items() if corruption.degrade is None}
        if any(line in each for each in missing.values() for line in shown):
            figure = _bars(missing, shown, split)
            paths.append(figure.save(folder / f"degradation_{split}_missing{ending}"))
    return paths


def _chart(points_by_line: Mapping[str, Points], corruption: Corruption, split: str) -> Chart:
    places = {severity: place for place, severity in enumerate((None, *corruption.severities))}
    drawn = []
    for line, points in points_by_line.items():
        several = any(len(each) > 1 for _, each in points)
        drawn.append(
            Curve(
                line,
                x=[places[severity] for severity, _ in points],
                y=[float(np.mean(each)) for _, each in points],
                low=[min(each) for _, each in points] if several else None,
                high=[max(each) for _, each in points] if several else None,
            )
        )
    return line_chart(
        drawn,
        title=f"{corruption.title.capitalize()}, {_about(points_by_line, split)}",
        x_label=f"{corruption.unit}: from mild to worst",
        y_label="NMI",
        x_ticks=[(place, CLEAN if severity is None else f"{severity:g}") for severity, place in places.items()],
        x_range=(0, len(places) - 1),
        y_range=(
            0.0,
            1.05 * max(0.1, *(value for points in points_by_line.values() for _, each in points for value in each)),
        ),
    )


def _bars(missing: Mapping[str, Mapping[str, Points]], shown: Sequence[str], split: str) -> Chart:
    every = {line: points for each in missing.values() for line, points in each.items() if line in shown}

    def series(title: str, values: Mapping[str, Sequence[float]]) -> Bars:
        values_by_line = [values.get(line) or [float("nan")] for line in every]
        several = any(len(runs) > 1 for runs in values_by_line)
        return Bars(
            title,
            [float(np.mean(runs)) for runs in values_by_line],
            low=[min(runs) for runs in values_by_line] if several else None,
            high=[max(runs) for runs in values_by_line] if several else None,
        )

    bars = [series(CLEAN, {line: dict(points).get(None, []) for line, points in every.items()})]
    for name, points_by_line in missing.items():
        bars.append(series(CORRUPTIONS[name].title, {line: points[-1][1] for line, points in points_by_line.items()}))
    return bar_chart(list(every), bars, title=f"A modality missing, {_about(every, split)}", value_label="NMI")


def _about(points_by_line: Mapping[str, Points], split: str) -> str:
    most = max(len(each) for points in points_by_line.values() for _, each in points)
    return f"{split} clips" + (f"; mean and range where a line has several runs, {most} at most" if most > 1 else "")


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
