"""Labels of vectors: crafted features of three sets, drawn spaces of 200,000 clips, a million rows of a memory map.

    python benchmarks/vectors.py                      all parts; results, page
    python benchmarks/vectors.py --parts sets         a part of it: sets, drawn, large
    python benchmarks/vectors.py --parts drawn --clips 20000 --heads 4    a trial; printed, not published

What is done is kept in benchmarks/results/vectors.json and in runs/benchmarks/vectors.  The sets are not distributed;
see benchmarks/small_sets.py.
"""

import argparse
import csv
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import RESULTS, ROOT, Job, machine, markdown_table, run_job, run_tool, show_page, spread
from small_sets import SETS, SmallSet, find_sets

from selavi.atomic import write_text
from selavi.labelling.solver.kmeans import cluster, start_centres, unit_features
from selavi.scores.contingency import contingency_matrix
from selavi.scores.metrics import normalised_mutual_information

SEEDS = (0, 1, 2)
PLACE = ROOT / "runs" / "benchmarks" / "vectors"
NUM_VIEWS = 8
LEARN = ("trainer.max_epochs=60", "labelling.num_labellings=60", "features.noise=0", "features.drop=0")
"""As long as the prototype of the issue; the views are what changes."""
PICTURE, SOUND = "picture.file=$VECTORS/video.npy", "sound.file=$VECTORS/audio.npy"
BOTH = ("modalities={picture: features, sound: features}", PICTURE, SOUND, "features.layers=[256]")
ROWS: dict[str, tuple[str, ...]] = {
    "joint": BOTH,
    "concat": (*BOTH, "labelling.source=concat"),
    "picture alone": ("modalities={picture: features}", PICTURE, "features.layers=[256]"),
    "sound alone": ("modalities={sound: features}", SOUND, "features.layers=[256]"),
}
NUM_CLUSTERS, NUM_DIMS, NUM_HEADS = 309, 512, 10


def of_sets(result: dict[str, Any], store: Path) -> None:
    """Crafted features of each set: learned by rows and seeds, and K-means on them."""
    folders = find_sets(list(SETS))
    for small_set in SETS.values():
        if small_set.variable not in folders:
            continue
        place, root = PLACE / small_set.folder, folders[small_set.variable]
        _embed(small_set, root, place)
        for seed in SEEDS:
            for row, settings in ROWS.items():
                key = f"{small_set.name}, {row}, {seed}"
                if key not in result["sets"]:
                    result["sets"][key] = _learn(small_set, row, settings, seed, place / "views")
                    write_text(store, json.dumps(result, indent=1) + "\n")
        key = f"{small_set.name}, K-means"
        if key not in result["sets"]:
            result["sets"][key] = _kmeans(small_set, place)
            write_text(store, json.dumps(result, indent=1) + "\n")


def _embed(small_set: SmallSet, root: Path, place: Path) -> None:
    """Random views to learn from, and one plain view for K-means."""
    of_audio = [setting for setting in small_set.overrides if setting.startswith("audio.")]
    common = [str(root / "train"), str(root / "test"), "--with", "crafted", "--config", "small", *of_audio]
    for name, more in (("views", ("--random", "--views", str(NUM_VIEWS))), ("plain", ())):
        if not (place / name / "ids.csv").exists():
            run_tool(["tools/embed.py", *common, *more, "--out", str(place / name)], {})


def _learn(small_set: SmallSet, row: str, settings: Sequence[str], seed: int, vectors: Path) -> dict[str, Any]:
    clusters = next(setting for setting in small_set.overrides if setting.startswith("heads.num_clusters"))
    overrides = (*settings, "features.ids=$VECTORS/ids.csv", "features.views=true", clusters, *LEARN)
    name = f"{small_set.folder}-{row.replace(' ', '-')}-seed{seed}"
    job = Job("vectors", name, row, seed, "configs/features.yaml", overrides, ("train", "test"))
    found = run_job(job, {"VECTORS": vectors})
    scores = {split: found["splits"][split]["chosen"]["nmi"] for split in ("train", "test")}
    return {"commands": found["commands"], "seconds": found["train_seconds"], **scores}


def _kmeans(small_set: SmallSet, place: Path) -> dict[str, Any]:
    """K-means on the plain features of each split: each modality and both side by side."""
    with (place / "plain" / "ids.csv").open(newline="", encoding="utf-8") as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    clusters = next(setting for setting in small_set.overrides if setting.startswith("heads.num_clusters"))
    scores: dict[str, Any] = {}
    for split in ("train", "test"):
        part = place / split
        part.mkdir(exist_ok=True)
        rows = np.array([one.split("/")[0] == split for one in ids])
        for name in ("video", "audio"):
            np.save(part / f"{name}.npy", np.load(place / "plain" / f"{name}.npy", allow_pickle=False)[rows])
        kept = [one for one in ids if one.split("/")[0] == split]
        (part / "ids.txt").write_text("\n".join(kept) + "\n", encoding="utf-8")
        lines = ["id,label", *(f"{one},{one.split('/')[1]}" for one in kept)]
        (part / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        scores[split] = _compare(part, ["video", "audio"], int(clusters.rpartition("=")[2]))
    return scores


def _compare(folder: Path, names: Sequence[str], num_clusters: int) -> dict[str, list[float]]:
    """NMI of K-means by kind of features, each seed."""
    arrays = [str(folder / f"{name}.npy") for name in names]
    words = ["--arrays", *arrays, "--ids", str(folder / "ids.txt"), "--labels", str(folder / "labels.csv")]
    words += ["--clusters", str(num_clusters), "--out", str(folder / "compare")]
    run_tool(["tools/compare.py", *words], {})
    found = json.loads((folder / "compare" / "compare.json").read_text(encoding="utf-8"))
    kinds: dict[str, list[float]] = {}
    for row in found["rows"]:
        kinds.setdefault(row["name"], []).append(row["nmi"])
    return kinds


def draw(folder: Path, num_clips: int) -> None:
    """Two spaces of clusters: in each, half of the classes have a centre of their own, and the others share one."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    classes = generator.permutation(np.arange(num_clips) % NUM_CLUSTERS)
    for half, name in enumerate(("one", "two")):
        centres = generator.normal(size=(NUM_CLUSTERS, NUM_DIMS)).astype(np.float32)
        shared = np.arange(NUM_CLUSTERS) % 2 == half
        centres[shared] = centres[shared].mean(0)
        values = np.lib.format.open_memmap(folder / f"{name}.npy", "w+", np.float32, (num_clips, NUM_DIMS))
        for begin in range(0, num_clips, 10_000):
            rows = classes[begin : begin + 10_000]
            values[begin : begin + 10_000] = centres[rows] + NOISE * generator.normal(size=(len(rows), NUM_DIMS))
        values.flush()
    ids = [f"train/class{label:03}/{number:07}" for number, label in enumerate(classes)]
    (folder / "ids.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
    lines = ["id,label", *(f"{one},{one.split('/')[1]}" for one in ids)]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


NOISE = 2.0
"""Standard deviation of a number about its centre, whose numbers have 1."""


def of_drawn(found: dict[str, Any], num_clips: int, num_heads: int, store: Callable[[], None]) -> None:
    """Labels of the drawn spaces together and alone, with time and memory, and K-means; what is done is kept."""
    folder = PLACE / f"drawn{num_clips}"
    if not (folder / "labels.csv").exists():
        draw(folder, num_clips)
    files = [
        f"{name}.{key}" for name in ("one", "two") for key in (f"file={folder / name}.npy", f"ids={folder}/ids.txt")
    ]
    found |= {"clips": num_clips, "heads": num_heads}
    for row, kinds in (("joint", ("one", "two")), ("one alone", ("one",)), ("two alone", ("two",))):
        if row in found:
            continue
        run_dir = folder / row.replace(" ", "-")
        words = ["--config", "features", f"modalities={{{', '.join(f'{kind}: features' for kind in kinds)}}}"]
        words += [f"features.ids={folder}/ids.txt", *(word for word in files if word.split(".")[0] in kinds)]
        words += [f"heads.num_clusters={NUM_CLUSTERS}", f"heads.num_heads={num_heads}", *DRAWN, f"run_dir={run_dir}"]
        cost = watched(["tools/train.py", *words, "resume=never"], run_dir)
        run_tool(["tools/cluster_eval.py", str(run_dir), "--split", "train"], {})
        metrics = json.loads((run_dir / "eval" / "metrics_train.json").read_text(encoding="utf-8"))
        found[row] = cost | {"nmi": metrics["chosen"]["nmi"]}
        store()
    if "K-means" not in found:
        found["K-means"] = _kmeans_of_drawn(folder)
        store()


def _kmeans_of_drawn(folder: Path) -> dict[str, list[float]]:
    """NMI of K-means by space, each seed: k-means++ and Lloyd's algorithm on scaled features, as DeepCluster has it."""
    ids = (folder / "ids.txt").read_text(encoding="utf-8").split()
    _, classes = np.unique([one.split("/")[1] for one in ids], return_inverse=True)
    present, index = torch.ones(len(ids), dtype=torch.bool), torch.arange(len(ids))
    spaces = {}
    for name in ("one", "two"):
        values = torch.from_numpy(np.load(folder / f"{name}.npy", allow_pickle=False))
        spaces[name] = unit_features(values, present)
    spaces["one+two"] = torch.cat([*spaces.values()], 1)
    kinds: dict[str, list[float]] = {}
    for name, features in spaces.items():
        for seed in SEEDS:
            start = start_centres(features, index, len(ids), NUM_CLUSTERS, seed)
            clusters = cluster(features, start).labels.numpy()
            nmi = normalised_mutual_information(contingency_matrix(classes, clusters))
            kinds.setdefault(name, []).append(float(nmi))
    return kinds


def page(result: Mapping[str, Any]) -> str:
    """docs/results/vectors.md."""
    parts = [HEAD]
    if result["sets"]:
        parts.append(_page_of_sets(result["sets"]))
    if "drawn" in result:
        parts.append(_page_of_drawn(result["drawn"]))
    if "large" in result:
        large = result["large"]
        parts.append(
            f"## A million rows\n\n{large['clips']:,} vectors of 768 numbers, float16, from a memory map, labelling."
            f"memory_gb=1, one epoch and two labellings of {NUM_CLUSTERS} clusters with two heads: "
            f"{large['seconds'] / 60:.1f} minutes, {large['own_gb']:.2f} GB of memory of its own, "
            f"{large['resident_gb']:.2f} GB with pages of the file.\n"
        )
    found = result["machine"]
    parts.append(f"Measured on {found['processor']}, {found['cores']} cores, without a GPU.\n")
    return "\n".join(parts)


def _page_of_sets(runs: Mapping[str, Any]) -> str:
    """A table for each set: rows learned, and K-means."""
    parts = ["## Crafted features of media\n", ABOUT_SETS]
    for small_set in SETS.values():
        rows = []
        for row in ROWS:
            made = [runs[key] for seed in SEEDS if (key := f"{small_set.name}, {row}, {seed}") in runs]
            if made:
                scores = [spread([run[split] for run in made]) for split in ("test", "train")]
                minutes = " ".join(f"{run['seconds'] / 60:.1f}" for run in made)
                rows.append([row, *scores, minutes])
        for kind, values in runs.get(f"{small_set.name}, K-means", {}).get("test", {}).items():
            train = runs[f"{small_set.name}, K-means"]["train"][kind]
            rows.append([f"K-means, {kind}", spread(values), spread(train), ""])
        if rows:
            table = markdown_table(["row", "NMI, test", "NMI, train", "minutes"], rows)
            parts.append(f"### {small_set.name}\n\nJudged on its {small_set.judged_on} clips.\n\n{table}\n")
    return "\n".join(parts)


def _page_of_drawn(found: Mapping[str, Any]) -> str:
    rows = []
    for row in ("joint", "one alone", "two alone"):
        if row not in found:
            continue
        run = found[row]
        memory = [f"{run['own_gb']:.2f}", f"{run['resident_gb']:.2f}"]
        minutes = f"{run['seconds'] / 60:.1f}" if row == "joint" else ""  # the others need not run undisturbed
        rows.append([row, f"{run['nmi']:.3f}", minutes, *memory])
    rows += [[f"K-means, {kind}", spread(values), "", "", ""] for kind, values in found.get("K-means", {}).items()]
    table = markdown_table(["row", "NMI", "minutes", "GB of its own", "GB with mapped files"], rows)
    about = (
        f"{found['clips']:,} clips, two spaces of {NUM_DIMS} numbers, {NUM_CLUSTERS} classes of equal size, "
        f"{found['heads']} heads. In each space half of the classes have a centre of their own, whose numbers have a "
        f"standard deviation of 1, and the others share one; every number has noise of {NOISE:g} about its centre."
    )
    return f"## Drawn spaces\n\n{about}\n\n{table}\n"


HEAD = """# Labels of vectors

What are labels of vectors worth that something else has made, and what do they cost?
"""
ABOUT_SETS = f"""The sets are those of [small_sets.md](small_sets.md), and [labels.md](labels.md) has what encoders
reach on them that are trained from scratch. Here `selavi embed --with crafted --random --views {NUM_VIEWS}` makes
vectors of all clips, on which heads and one layer of 256 numbers a modality learn for 60 epochs. K-means clusters the
features of one plain view of each clip. No label takes part; the head is chosen without any.
"""
DRAWN = ("trainer.max_epochs=2", "labelling.num_labellings=2", "optim.batch_size=1024", "optim.lr_clips=128")


def of_large(num_clips: int) -> dict[str, Any]:
    """A million vectors of float16 from a memory map: one short training, with its memory."""
    folder, run_dir = PLACE / "large", PLACE / "large" / "run"
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "ids.txt").exists():
        generator = np.random.default_rng(0)
        centres = generator.normal(size=(NUM_CLUSTERS, 768)).astype(np.float32)
        values = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float16, (num_clips, 768))
        for begin in range(0, num_clips, 10_000):
            rows = np.arange(begin, min(begin + 10_000, num_clips)) % NUM_CLUSTERS
            values[begin : begin + 10_000] = centres[rows] + 2 * generator.normal(size=(len(rows), 768))
        values.flush()
        (folder / "ids.txt").write_text(
            "".join(f"train/{number:07}\n" for number in range(num_clips)), encoding="utf-8"
        )
    words = ["--config", "features", "modalities={space: features}", f"space.file={folder}/vectors.npy"]
    words += [f"space.ids={folder}/ids.txt", f"heads.num_clusters={NUM_CLUSTERS}", "heads.num_heads=2", *DRAWN]
    words += ["trainer.max_epochs=1", "labelling.num_labellings=2", "labelling.memory_gb=1", f"run_dir={run_dir}"]
    return {"clips": num_clips, **watched(["tools/train.py", *words, "resume=never"], run_dir)}


def watched(words: Sequence[str], run_dir: Path) -> dict[str, float]:
    """Seconds of a tool, and the most memory that it ever had: its own, and with pages of mapped files."""
    subprocess.run(["rm", "-rf", str(run_dir)], check=True)
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT)
    most, done = {"RssAnon": 0.0, "VmRSS": 0.0}, threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            for kind in most:
                most[kind] = max(most[kind], _memory_gb(process.pid, kind))

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    done.set()
    watcher.join()
    if code:
        sys.exit(code)
    memory = {"own_gb": round(most["RssAnon"], 2), "resident_gb": round(most["VmRSS"], 2)}
    return {"seconds": round(time.monotonic() - began, 1), **memory}


def _memory_gb(pid: int, kind: str) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith(f"{kind}:")) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=("sets", "drawn", "large"), default=["sets", "drawn", "large"])
    parser.add_argument("--clips", type=int, default=200_000)
    parser.add_argument("--heads", type=int, default=NUM_HEADS)
    args = parser.parse_args()
    is_trial = (args.clips, args.heads) != (200_000, NUM_HEADS)
    store = (PLACE if is_trial else RESULTS) / "vectors.json"
    store.parent.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"machine": machine(), "sets": {}}
    if store.exists():
        result |= json.loads(store.read_text(encoding="utf-8"))
    if "sets" in args.parts:
        of_sets(result, store)
    if "drawn" in args.parts:
        of_drawn(
            result.setdefault("drawn", {}),
            args.clips,
            args.heads,
            lambda: write_text(store, json.dumps(result, indent=1) + "\n"),
        )
    if "large" in args.parts:
        result["large"] = of_large(5 * args.clips)
    write_text(store, json.dumps(result, indent=1) + "\n")
    show_page("vectors", page(result), is_trial)


if __name__ == "__main__":
    main()
