"""How tools/export_clusters.py writes the gallery of a run; imported late, for its imports are slow."""

import argparse
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from datamodules.clips import open_prepared
from datamodules.manifest import media_root
from selavi.config import Config
from selavi.evaluation.head_choice import HeadChoice
from selavi.gallery.build import About, Each, Report, Source, write_gallery
from selavi.gallery.select import Places, arrange
from selavi.naming import Names
from tools._features import features_of
from tools._prepared import read_shard, write_shard

_FIGURES = {"nmi": "NMI", "ari": "ARI", "accuracy": "Accuracy", "purity": "Purity", "n": "Clips scored"}


def gallery(
    args: argparse.Namespace,
    config: Config,
    split: str,
    labels: pa.Table,
    manifest: pa.Table,
    head: int,
    choice: HeadChoice,
    names: Names,
    each: Each,
) -> Report:
    """Write RUN/gallery; arguments are those of the tool and what it has read of the run."""
    clips, heads = arrange(labels, manifest)
    found, no_map = (
        ({}, "it was left out (--map none)") if args.map == "none" else features_of(args.run, split, clips["id"])
    )
    features = np.concatenate(list(found.values()), 1) if found else None
    about = About(
        title=f"{args.run.resolve().name}, {split}",
        run=str(args.run),
        split=split,
        chosen_head=head,
        figures=_figures(args.run / "eval" / f"metrics_{split}.json", head),
        names=names.rows,
        agreement_of_heads=[
            None if np.isnan(score) else round(score, 3) for score in choice.scores["agreement"].tolist()
        ],
        seed=config.seed,
        no_map=no_map,
    )
    places = None if args.clips == "all" else Places.of(int(args.clips))
    source = _source(args, config, manifest, clips)
    return write_gallery(
        args.run / "gallery", clips, heads, about, source, places=places, features=features, method=args.map, each=each
    )


def _source(args: argparse.Namespace, config: Config, manifest: pa.Table, clips: pa.Table) -> Source:
    source = Source(media_root(manifest), args.media, config.data.allow_links, sample_rate=config.audio.sample_rate)
    prepared = open_prepared(config)
    if prepared is None or prepared[1] is None:
        return source
    reader = prepared[1].select(clips, size=0, sample_rate=0)
    read, write = partial(read_shard, reader=reader), partial(write_shard, reader=reader)
    return replace(source, read=read, write=write, without_files=True)


def _figures(path: Path, head: int) -> list[tuple[str, str]]:
    """What tools/cluster_eval.py found for a head; nothing where it was not run."""
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))
    entry = found["heads"][head] if found["labelled"] else {}
    figures = [(name, entry[key]) for key, name in _FIGURES.items() if entry.get(key) is not None]
    return [(name, f"{value:.3f}" if isinstance(value, float) else f"{value:,}") for name, value in figures]
