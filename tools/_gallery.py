"""How tools/export_clusters.py writes the gallery of a run; imported late, for its imports are slow."""

import argparse
import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from datamodules.clips import open_prepared
from datamodules.index.manifest import media_root
from selavi.errors import DataError, UsageError
from selavi.localisation.evidence import read_faded
from selavi.modalities import Request
from selavi.results.gallery.build import Report, Source, write_gallery
from selavi.results.gallery.overlays import Evidence
from selavi.results.gallery.select import Places
from tools._about import Found, about_run
from tools._evidence import evidence_for
from tools._pool import pool
from tools._prepared import read_shard, write_shard

log = logging.getLogger("selavi")


def gallery(args: argparse.Namespace, run: Found) -> Report:
    """Write RUN/gallery."""
    return write_gallery(
        args.run / "gallery",
        run.clips,
        run.heads,
        about_run(args.run, run),
        _source(args, run),
        places=None if args.clips == "all" else Places.of(int(args.clips)),
        features=np.concatenate(list(run.features.values()), 1) if run.features else None,
        method=args.map,
        explain=partial(_evidence, args.run, args.root, run.split, run.head) if args.evidence else None,
        num_explained=args.evidence,
        each=pool(run.config.data.scan_workers),
    )


def _evidence(run_dir: Path, root: str, split: str, head: int, ids: list[str]) -> Iterator[Evidence]:
    """Where and when the evidence for clips lies; none, with a word about it, where it cannot be computed."""
    try:
        path = evidence_for(run_dir, split, head, ids, root)
    except (UsageError, DataError, FileNotFoundError) as error:
        log.warning(f"no evidence: {error}")
        return
    for found in read_faded(path):
        yield Evidence(found.id, found.video, found.audio)


def _source(args: argparse.Namespace, run: Found) -> Source:
    data, rate = run.config.data, run.config.audio.sample_rate
    source = Source(media_root(run.manifest), args.media, data.allow_links, sample_rate=rate)
    prepared = open_prepared(run.config)
    if prepared is None or prepared[1] is None:
        return source
    reader = prepared[1].select(run.clips, Request())
    read, write = partial(read_shard, reader=reader), partial(write_shard, reader=reader)
    return replace(source, read=read, write=write, without_files=True)
