"""How tools/probe.py measures one fold; imported late, for its imports are slow."""

import argparse
from typing import Any

from datamodules.clips import ClipDataModule, cached, prepare_data
from datamodules.index.holdout import hold_out
from datamodules.index.manifest import select_split
from selavi.config import Config
from selavi.evaluation.probes import probe_clips
from selavi.inference.encode import best_device, encode_clips
from selavi.inference.load import load_model, untrained_model
from selavi.runs.record import Run


def measure(run: Run, config: Config, fold: str | None, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One fold: a row for each kind of encoders and features."""
    own = config is run.config
    manifest, media = (run.manifest, cached(config, run.manifest)) if own else prepare_data(config)
    select_split(manifest, args.split)  # before anything is encoded
    data, device = ClipDataModule(config, manifest, media), best_device(config.trainer.accelerator)
    kinds = [label or "" for label in data.train_rows["label"].to_pylist()]
    held_out = hold_out(data.ids, kinds, fraction=0.2, seed=config.seed, group=args.group)
    rows = []
    for encoders, make in {"trained": load_model, "untrained": untrained_model}.items():
        if encoders == "trained" or args.untrained:
            model, augment = make(run, device)
            sides = []
            for split in (config.data.train_split, args.split):
                loader, table = data.evaluation_loader(split, args.views)
                clips = encode_clips(model, augment, loader, len(table), args.views)
                sides.append((clips, table["label"].to_pylist()))
            results = probe_clips(*sides[0], held_out, *sides[1], device)
            rows += [{"fold": fold, "encoders": encoders, "features": name, **row} for name, row in results.items()]
    return rows
