"""Predict and score the clips of one run."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from datamodules.loading.views import ClipLoaders
from datamodules.yardsticks import crude_features
from selavi.augment import Augment
from selavi.commands.evaluate import EvaluateArguments
from selavi.commands.features import features_of
from selavi.commands.opening import open_clips
from selavi.errors import UsageError
from selavi.evaluation.num_clusters import as_figures
from selavi.evaluation.report import coarser, evaluate_heads, write_metrics, yardsticks
from selavi.evaluation.report_page import write_report
from selavi.ids import ClipIds, find_ids
from selavi.inference.device import best_device
from selavi.inference.encode import encode_clips
from selavi.inference.load import load_model
from selavi.inference.predict import predict
from selavi.labelling.bank import ids_of_bank, probe_of_bank
from selavi.labelling.features import FeatureTable
from selavi.labelling.probe import probe_scores
from selavi.labelling.rule import LabelRule
from selavi.meter import say
from selavi.model import SelaviModel
from selavi.results.labels import agreement_of_modalities, write_labels
from selavi.runs.record import Run, read_verdict
from selavi.scores.head_choice import choose_head
from selavi.scores.num_clusters import MAX_CLIPS, suggest_k


def evaluate_run(folder: Path, arguments: EvaluateArguments) -> tuple[dict[str, Any], Path | None]:
    """Predict every clip of the split, score, write RUN/eval/metrics_SPLIT.json and RUN/labels/SPLIT.parquet.

    Returns:
        The scores, and the page with figures where one was asked for.
    """
    split = arguments.split
    run, loaders = open_clips(folder, arguments.root)
    config = run.config
    bank = run.checkpoint["label_bank"]
    loader, listed = loaders.evaluation_loader(split, arguments.views)
    model, augment = load_model(run, best_device(config.trainer.accelerator))
    rule = LabelRule.from_tensors(bank)
    predictions = predict(model, augment, loader, len(listed), arguments.views, config, rule)
    rows: pa.Table = listed.take(predictions.rows.numpy())  # without undecodable clips
    if split != config.data.train_split:  # those have the labels of the last labelling already
        write_labels(run.folder, split, ClipIds(rows["id"]), predictions.clusters, vars(predictions.statistics))
    probe = probe_of_bank(bank)
    if arguments.choose == "probe" and (probe is None or np.isnan(probe).any()):
        probe = _probe_anew(run, loaders, model, augment, arguments.views)
    shared = agreement_of_modalities(run.folder, config.data.train_split)
    choice = choose_head(bank["labels"].numpy(), arguments.choose or None, modality_agreement=shared, probe=probe)
    labels = rows["label"].to_pylist()
    clusters = predictions.clusters.numpy()
    num_clusters = config.heads.num_clusters
    by_modality = {name: values.numpy() for name, values in predictions.by_modality.items()}
    result = evaluate_heads(split, clusters, labels, choice, num_clusters, by_modality)
    result["verdict"] = read_verdict(folder)
    paths = listed["path"].to_pylist()
    result["undecodable"] = {paths[row]: reason for row, reason in predictions.errors.items()}
    if arguments.merge:
        result["coarser"] = coarser(clusters, labels, choice.head, num_clusters, list(arguments.merge), config.seed)
    if arguments.suggest_k:
        result["suggested_k"] = _suggested_k(run, rows, split, arguments.root)
    if arguments.yardsticks and result["labelled"]:
        result["yardsticks"] = yardsticks(crude_features(rows, loaders.media), labels, num_clusters, config.seed)
    write_metrics(result, run.folder)
    report = write_report(run.folder, result, predictions, labels, config) if arguments.report else None
    return result, report


def _probe_anew(run: Run, loaders: ClipLoaders, model: SelaviModel, augment: Augment, num_views: int) -> np.ndarray:
    """The (H,) probe scores of a run whose label bank lacks some."""
    bank = run.checkpoint["label_bank"]
    loader, rows = loaders.evaluation_loader(run.config.data.train_split, num_views)
    encoded = encode_clips(model, augment, loader, len(rows), num_views)
    place = find_ids(ids_of_bank(bank).array, rows["id"]).place
    if (place < 0).any():
        raise UsageError(
            f"{(place < 0).sum()} of {len(place)} clips of the checkpoint are not in the manifest of {run.folder}: "
            "bring back the manifest.parquet that the run was trained with"
        )
    places = torch.from_numpy(place)
    features = {name: values[places] for name, values in encoded.features.items()}
    present = {name: values[places] for name, values in encoded.present.items()}
    clips = FeatureTable(torch.arange(len(places)), features, present)
    return probe_scores(clips, bank["labels"].long(), run.config.heads.num_clusters).numpy()


def _suggested_k(run: Run, rows: pa.Table, split: str, root: str) -> dict[str, Any]:
    """A number of clusters for some clips, from their features in the run folder."""
    features, why_not = features_of(run.folder, split, rows["id"], root)
    if why_not:
        raise UsageError(f"no number of clusters can be suggested: {why_not}")
    num_clusters = run.config.heads.num_clusters
    say(f"clustering halves of {min(len(rows), MAX_CLIPS)} clips into several numbers of clusters")
    try:
        suggestion = suggest_k(features, num_clusters, seed=run.config.seed)
    except ValueError as error:
        raise UsageError(f"no number of clusters can be suggested: {error}") from error
    return as_figures(suggestion, num_clusters)
