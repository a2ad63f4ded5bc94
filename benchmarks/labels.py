"""Which labels are better: the default recipe beside the published one, its parts, its rivals and single ideas.

    python benchmarks/labels.py                                     three seeds of every row on three sets
    python benchmarks/labels.py --rows default xdc --seeds 0        a part of it; rows made before are kept
    python benchmarks/labels.py --list                              what is missing, in the order in which it is made
    python benchmarks/labels.py --fast                              small instruments, for choosing, not for reporting
    python benchmarks/labels.py --accelerator gpu --jobs 16         on a GPU, 16 rows at once; each keeps its name
    python benchmarks/labels.py --take FILE                         rows of a labels.json that another machine made
    python benchmarks/labels.py --import-recipes                    rows of recipes.json that have the same settings
    python benchmarks/labels.py --page                              write docs/results/labels.md again
    python benchmarks/labels.py --rows before --trial trainer.max_epochs=1      a trial; printed, not published

Work goes seed by seed, and within a seed row by row over all sets.  A row is made once: it is looked for in
benchmarks/results/labels.json (labels_fast.json), then in its run folder.  One that was made with other settings than
the row has today is made again.  The page is written after each row.  Two calls may run side by side on different
sets or rows.  The sets are not distributed; see benchmarks/small_sets.py.
"""

import argparse
import csv
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from common import PAGES, RESULTS, ROOT, Job, load_runs, run_job, save_runs
from labels_page import page
from recipes import SPLITS, add_kmeans
from small_sets import SETS, SmallSet, find_sets

from selavi.config import SETTINGS, Config, load_config, load_run_config
from selavi.errors import UsageError
from selavi.evaluation.compare import RECIPES
from selavi.scores.metrics import evaluate_clusters
from selavi.training.forecast import num_fresh_labellings

CONFIG = "configs/small.yaml"
RANDOM = "labelling.first=random"
BEFORE = f"labelling.votes=raw {RANDOM} loss.reduce=mean"
AS_PUBLISHED = (
    f"{BEFORE} labelling.marginal=gaussian labelling.gaussian_sd=0.1 labelling.power=1.5 heads.num_heads=10 "
    "heads.dropout=0.3 video.crop_fraction=[0.7,0.875] video.colour_jitter=0 video.greyscale=0 audio.shift_mel=0 "
    "audio.shift_time=0 audio.tone_jitter=0 audio.mask_time=0 audio.mask_mel=0 optim.schedule=constant "
    "optim.warmup_lr=0.01 optim.warmup_epochs=2"
)
PUBLISHED_RATE = "optim.lr=0.01 optim.lr_clips=16"
RIVALS = {name: " ".join(RECIPES[name]) for name in ("sela-audio", "sela-video", "concat", "xdc", "cdc")}
# The rows: what each changes in configs/small.yaml, in the order in which they are made.  A new idea is one line.
ROWS = {
    "default": "",
    "published": f"{AS_PUBLISHED} {PUBLISHED_RATE}",
    **RIVALS,
    "default-random": RANDOM,
    "kept": "labelling.features=kept",
    "before": BEFORE,
    **{f"{name}-random": f"{changes} {RANDOM}" for name, changes in RIVALS.items()},
    "published-fast-rate": AS_PUBLISHED,
    "xdc-before": f"{RIVALS['xdc']} {BEFORE}",
    "cdc-before": f"{RIVALS['cdc']} {BEFORE}",
}
BUDGETS = {"avobjects": ("trainer.max_epochs=40", "labelling.num_labellings=40"), "avdigits": (), "avstamps": ()}
# About two minutes of one core a run: for choosing between settings, never for reporting.
FAST = (
    "video.num_frames=1 video.decode_size=32 video.size=24 audio.sample_rate=8000 audio.num_mels=32 audio.num_fft=256 "
    "audio.hop_s=0.032 encoders.audio_width=8 labelling.head_groups=1"
)
FAST_EPOCHS = {"avobjects": 60, "avdigits": 24, "avstamps": 24}
# What runs did before there was a setting for it, so that rows of recipes.json can be compared with today's.
EARLIER = ("labelling.votes=raw", "labelling.first=random", "loss.reduce=mean", "trainer.precision=32-true")


@dataclass(frozen=True)
class Planned:
    """One row of one set with one seed."""

    small_set: SmallSet
    name: str
    job: Job

    @property
    def key(self) -> tuple[str, int]:
        """What it is called in the results."""
        return self.job.row, self.job.seed

    def config(self) -> Config:
        """Every setting that its training would have today."""
        return load_config(ROOT / CONFIG, list(self.job.overrides))


def plan(
    sets: Sequence[str], rows: Sequence[str], seeds: Sequence[int], fast: bool, more: Sequence[str] = ()
) -> list[Planned]:
    """All of it, in the order of work: seed by seed, rows as in ROWS, every set."""
    slug = "labels_fast" if fast else "labels"
    planned = []
    for seed in seeds:
        for name in (row for row in ROWS if row in rows):
            for small_set in (SETS[key] for key in sets):
                overrides = (
                    f"data.root=${small_set.variable}",
                    "trainer.precision=32-true",  # so that it does not matter for a row whether a GPU made it
                    *small_set.overrides,
                    *BUDGETS[small_set.folder],
                    *(_instrument(small_set) if fast else ()),
                    *ROWS[name].split(),
                    *more,
                )
                title = f"{small_set.folder}-{name}-seed{seed}"
                job = Job(slug, title, f"{small_set.name}, {name}", seed, CONFIG, overrides, SPLITS)
                planned.append(Planned(small_set, name, job))
    return planned


def _instrument(small_set: SmallSet) -> list[str]:
    epochs = FAST_EPOCHS[small_set.folder]
    return [*FAST.split(), f"trainer.max_epochs={epochs}", f"labelling.num_labellings={epochs}"]


def settings_of(config: Config) -> dict[str, Any]:
    """The settings that decide what a training computes, where they have an effect and are not the earlier ones.

    Two trainings with the same of them, and the same seed, differ in nothing but places and speed.
    """
    kept = {}
    for key, entry in SETTINGS.items():
        is_free = entry.about.free in ("resume", "always") or key == "seed"
        has_effect = all(need.is_met(config, "train") for need in entry.about.needs)
        if not is_free and has_effect and entry.value(config) != entry.earlier:
            kept[key] = entry.value(config)
    return dict(json.loads(json.dumps(kept)))


def encoded_clips(config: Config, num_clips: int) -> dict[str, int]:
    """How many clips the encoders read: in steps of training, and without gradients for labels.

    A labelling reads every clip once for each group of heads, from another view, unless the features of the training
    steps are kept for it.  Before the first one some batches
    update the batch-norm statistics.  First labels that are given stand for the labellings of their time, and for that:
    the features that they are made of are no encoder's and do not count.

    Args:
        config: of the run, on one device.
        num_clips: of the training split.
    """
    optim, labelling, trainer = config.optim, config.labelling, config.trainer
    steps_per_epoch = num_clips // optim.batch_size
    warm_up = 0
    if labelling.first == "random":
        warm_up = min(labelling.warmup_batches, max(1, num_clips // labelling.batch_size))
    num_passes = labelling.head_groups * num_fresh_labellings(config, steps_per_epoch)
    return {
        "training": trainer.all_epochs * steps_per_epoch * optim.batch_size,
        "labelling": num_passes * num_clips + warm_up * labelling.batch_size,
    }


def measure(planned: Planned, folders: Mapping[str, Path], kmeans: bool) -> dict[str, Any]:
    """Train and measure, or find it done."""
    job = planned.job
    _move_stale(planned)
    result = run_job(job, folders)
    if kmeans:
        result = add_kmeans(result, job.run_dir(), folders)
    root = folders[planned.small_set.variable]
    for split in SPLITS:
        result["splits"][split] |= _of_heads(job.run_dir(), split)
        if (root / f"{split}.csv").exists():
            result["splits"][split] |= _by_language(job.run_dir(), root, split)
    config = load_run_config(ROOT / job.run_dir())
    num_clips = result["splits"]["train"]["chosen"]["n"]
    return {**result, "settings": settings_of(config), "encoded": encoded_clips(config, num_clips)}


def measured(
    rows: Sequence[Planned], folders: Mapping[str, Path], args: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Measure rows, `--jobs` at once, and yield each as it ends; those that another call has made since are left out.

    Raises:
        SystemExit: some failed; the others have been yielded before.
    """

    def one(planned: Planned) -> dict[str, Any] | None:
        is_there = not args.trial and is_made(planned, made_before("labels_fast" if args.fast else "labels"))
        return None if is_there else measure(planned, folders, kmeans=not args.fast)

    failed = []
    with ThreadPoolExecutor(args.jobs) as pool:  # each only waits for the tools that it runs
        running = {pool.submit(one, planned): planned for planned in rows}
        for done in as_completed(running):
            job = running[done].job
            if done.exception() is not None:
                failed.append(f"{job.row}, seed {job.seed}: {done.exception()!r}")
            elif (row := done.result()) is not None:
                yield row
    if failed:
        raise SystemExit("\n".join(failed))


def _move_stale(planned: Planned) -> None:
    """Move a run folder out of the way that was made when the same command meant other settings."""
    folder = ROOT / planned.job.run_dir()
    if not (folder / "benchmark.json").exists():
        return
    with suppress(UsageError):  # of a version that had a setting more
        if settings_of(load_run_config(folder)) == settings_of(planned.config()):
            return
    number = len(list(folder.parent.glob(f"{folder.name}-old*")))
    os.replace(folder, folder.with_name(f"{folder.name}-old{number}"))
    print(f"{planned.job.row}: its run had other settings, and is {folder.name}-old{number} now", file=sys.stderr)


def _of_heads(run_dir: Path, split: str) -> dict[str, Any]:
    """NMI of every head, of the consensus of all, and of each modality alone under the chosen head."""
    metrics = json.loads((ROOT / run_dir / "eval" / f"metrics_{split}.json").read_text(encoding="utf-8"))
    return {
        "heads": [entry["nmi"] for entry in metrics["heads"]],
        "consensus": metrics["consensus"]["nmi"],
        "alone": {name: entry["nmi"] for name, entry in metrics["alone"].items()},
    }


def _by_language(run_dir: Path, root: Path, split: str) -> dict[str, Any]:
    """NMI of the chosen head's clusters with the spoken language, where the set's table has one."""
    with (root / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    if "language" not in lines[0]:
        return {}
    metrics = json.loads((ROOT / run_dir / "eval" / f"metrics_{split}.json").read_text(encoding="utf-8"))
    labels = pq.read_table(ROOT / run_dir / "labels" / f"{split}.parquet").to_pylist()
    clusters = {row["id"]: row["cluster"] for row in labels if row["head"] == metrics["chosen"]["head"]}
    judged = [line for line in lines if line["path"] in clusters]
    if len(judged) != metrics["chosen"]["n"]:
        raise SystemExit(f"{run_dir}: {len(judged)} of {metrics['chosen']['n']} clips of {split} have a language")
    languages = [line["language"] for line in judged]
    return {"language": evaluate_clusters(languages, [clusters[line["path"]] for line in judged])["nmi"]}


def import_recipes(rows: Sequence[Planned]) -> list[dict[str, Any]]:
    """The rows of benchmarks/results/recipes.json that had, at their commit, exactly the settings that a row has today.

    Every head's NMI, the consensus and each modality alone are not in that file and are left out.
    """
    taken = []
    today = [(planned, settings_of(planned.config())) for planned in rows]
    for run in load_runs("recipes"):
        config = _config_at(run["environment"]["git_commit"], shlex.split(run["commands"][0]))
        if config is None:
            continue
        facts = {
            "settings": settings_of(config),
            "encoded": encoded_clips(config, run["splits"]["train"]["chosen"]["n"]),
            "imported": f"recipes.json, {run['row']}",
        }
        for planned, settings in today:
            same_set = run["row"].startswith(f"{planned.small_set.name}, ")
            if same_set and run["seed"] == planned.job.seed and facts["settings"] == settings:
                taken.append({**run, **facts, "row": planned.job.row})
    return taken


def _config_at(commit: str, command: Sequence[str]) -> Config | None:
    """The settings of a training of an earlier commit; None where its configuration cannot be had any more."""
    overrides = [part for part in command if "=" in part and not part.startswith("run_dir=")]
    stored = subprocess.run(["git", "show", f"{commit.rstrip('+')}:{CONFIG}"], cwd=ROOT, capture_output=True, text=True)
    if stored.returncode:
        print(f"commit {commit} is not here: its rows are not imported", file=sys.stderr)
        return None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "small.yaml")
        path.write_text(stored.stdout, encoding="utf-8")
        return load_config(path, [*EARLIER, *overrides])


def made_before(name: str) -> dict[tuple[str, int], dict[str, Any]]:
    """The rows of benchmarks/results/NAME.json."""
    runs = load_runs(name) if (RESULTS / f"{name}.json").exists() else []
    return {(run["row"], run["seed"]): run for run in runs}


def is_made(planned: Planned, made: Mapping[tuple[str, int], Mapping[str, Any]]) -> bool:
    """Whether a row is there, with the settings that it has today."""
    run = made.get(planned.key)
    return run is not None and run["settings"] == settings_of(planned.config())


def keep(name: str, new: Sequence[dict[str, Any]]) -> None:
    """Add rows to benchmarks/results/NAME.json, which another process may have added to, and write the page."""
    made = made_before(name) | {(run["row"], run["seed"]): run for run in new}
    order = {planned.key: place for place, planned in enumerate(plan(list(SETS), list(ROWS), range(10), False))}
    runs = sorted(made.values(), key=lambda run: order.get((run["row"], run["seed"]), len(order)))
    save_runs(name, "Which labels are better", runs)
    write_page()


def write_page() -> None:
    """Write docs/results/labels.md from the results."""
    tried = load_runs("labels_tried")
    text = page(list(made_before("labels").values()), list(made_before("labels_fast").values()), ROWS, FAST, tried)
    (PAGES / "labels.md").write_text(text, encoding="utf-8")


def main() -> None:
    args = _arguments()
    name = "labels_fast" if args.fast else "labels"
    if args.page:
        return write_page()
    if args.take:
        return keep(name, json.loads(args.take.read_text(encoding="utf-8"))["runs"])
    device = [f"trainer.accelerator={args.accelerator}"] if args.accelerator else []
    planned = plan(args.sets, args.rows, args.seeds, args.fast, [*device, *args.trial])
    if args.import_recipes:
        return keep(name, import_recipes(planned))
    made = {} if args.trial else made_before(name)
    missing = [one for one in planned if not is_made(one, made)]
    if args.list:
        for one in missing:
            print(f"{one.job.row}, seed {one.job.seed}")
        return None
    folders = find_sets(args.sets)
    missing = [one for one in missing if one.small_set.variable in folders]
    tried = []
    for number, row in enumerate(measured(missing, folders, args), 1):
        print(f"{number}/{len(missing)}: {row['row']}, seed {row['seed']}", file=sys.stderr, flush=True)
        tried.append(row)
        if not args.trial:
            keep(name, [row])
    if args.trial and tried:
        print(page([] if args.fast else tried, tried if args.fast else [], ROWS, FAST))
        print("not published: a trial", file=sys.stderr)
    return None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--fast", action="store_true", help="small instruments; benchmarks/results/labels_fast.json")
    parser.add_argument("--accelerator", choices=("cpu", "gpu"), help="where to train (default: as the configuration)")
    parser.add_argument("--jobs", type=int, default=1, help="rows made at once, each in processes of its own")
    parser.add_argument("--trial", nargs="+", default=[], metavar="KEY=VALUE", help="change every run, publish nothing")
    parser.add_argument("--list", action="store_true", help="print what is missing, and do nothing")
    parser.add_argument("--page", action="store_true", help="write the page from the results, and do nothing else")
    parser.add_argument("--take", type=Path, metavar="FILE", help="add the rows of another labels.json")
    parser.add_argument("--import-recipes", action="store_true", help="add the rows of recipes.json that are the same")
    return parser.parse_args()


if __name__ == "__main__":
    main()
