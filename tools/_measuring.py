"""What tools/cluster_eval.py does with one run; imported late, for its imports are slow."""

import argparse
import sys
from pathlib import Path
from typing import Any

from datamodules.yardsticks import crude_features
from selavi.evaluation.report import coarser, evaluate_heads, write_metrics, yardsticks
from selavi.evaluation.report_page import write_report
from selavi.inference.encode import best_device, combinations_of, encode_clips
from selavi.inference.load import load_model
from selavi.inference.predict import predict
from selavi.results.cluster_table import agreement_of_modalities
from selavi.results.labels import write_labels
from selavi.runs.record import read_verdict
from selavi.scores.head_choice import choose_head
from tools._moved import open_clips


def evaluate(run_dir: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Predict every clip of the split, score, write RUN/eval/metrics_SPLIT.json and RUN/labels/SPLIT.parquet."""
    split, num_views = args.split, args.views
    run, data = open_clips(run_dir, args.root)
    config, bank = run.config, run.checkpoint["label_bank"]
    loader, rows = data.evaluation_loader(split, num_views)
    model, augment = load_model(run, best_device(config.trainer.accelerator))
    predictions = predict(model, augment, loader, len(rows), num_views, config, bank["potentials"])
    paths, rows = rows["path"].to_pylist(), rows.take(predictions.rows.numpy())  # without undecodable clips
    if split != config.data.train_split:  # those have the labels of the last labelling already
        write_labels(run.folder, split, rows["id"].to_pylist(), predictions.clusters, vars(predictions.sure))
    features = None
    if args.choose == "probe":
        loader, train_rows = data.evaluation_loader(config.data.train_split, num_views)
        encoded = encode_clips(model, augment, loader, len(train_rows), num_views)
        row_of = {clip_id: row for row, clip_id in enumerate(train_rows["id"].to_pylist())}
        features = list(combinations_of(encoded).values())[-1][0].numpy()  # of all modalities
        features = features[[row_of[clip_id] for clip_id in bank["ids"]]]
    shared = agreement_of_modalities(run.folder, config.data.train_split)
    choice = choose_head(bank["labels"].numpy(), args.choose, modality_agreement=shared, features=features)
    labels, num_clusters = rows["label"].to_pylist(), config.heads.num_clusters
    alone = {name: found.numpy() for name, found in predictions.alone.items()}
    result = evaluate_heads(split, predictions.clusters.numpy(), labels, choice, num_clusters, alone)
    result["verdict"] = read_verdict(run_dir)
    result["undecodable"] = {paths[row]: reason for row, reason in predictions.errors.items()}
    if args.merge:
        found = predictions.clusters.numpy()
        result["coarser"] = coarser(found, labels, choice.head, num_clusters, args.merge, config.seed)
    if args.yardsticks and result["labelled"]:
        result["yardsticks"] = yardsticks(crude_features(rows, data.cache), labels, num_clusters, config.seed)
    write_metrics(result, run.folder)
    if args.report:
        print(f"report: {write_report(run.folder, result, predictions, labels, config)}", file=sys.stderr)
    return result
