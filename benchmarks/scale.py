"""What a run holds and waits for when it has millions of clips, whatever its networks: ids, tables, bookkeeping.

    python benchmarks/scale.py                                 a million clips, and ten where it fits; results, page
    python benchmarks/scale.py --before ../earlier             the same with the checkout of another commit, in turns
    python benchmarks/scale.py --clips 20000 --rounds 1        a trial; printed, not published

Every section runs in a process of its own, on made-up clips of which no file exists.  Peak memory is that of the
process (VmHWM) less what it had when the section began.  With --before, both checkouts take turns in each round.  The
sections `ranks`, `resume` and `first_table` start the processes of one machine: in the first, a page that several of
them have counts once (Pss); in the others, each counts what it has touched itself and no file gives back.
"""

import argparse
import ctypes
import inspect
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from statistics import median
from typing import Any

from common import PAGES, RESULTS, ROOT, describe_machine, markdown_table, measured_here

STORE = RESULTS / "scale.json"
MILLION, LARGE = 1_000_000, 10_000_000
NUM_HEADS, NUM_CLUSTERS, NUM_NAMES = 10, 400, 400
RANKS, RANKS_A_NODE = 64, 8
TABLES = ("write_labels", "read_labels")
OF_RANKS = ("ranks", "resume", "first_table")
AT_TEN_MILLION = ("loader", "checkpoint", *TABLES, "bookkeeping", *OF_RANKS, "last_statistics", "nmi")
"""Sections that fit into this machine at ten million clips; the cluster tables' CSV alone has over ten gigabytes."""
NOW_ALONE = (*TABLES, *OF_RANKS)
"""Of these, sections that the code of an earlier commit cannot do: it fails at so many rows, or memory does not do."""
MANY_CLUSTERS = 2000
"""Of the alignment: with a few hundred it takes no time at all."""

Figures = dict[str, float]


# ---- a section: runs in a process of its own, by the code of either checkout ----


class Clock:
    """Seconds and peak memory of parts of a section."""

    def __init__(self) -> None:
        self.figures: Figures = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a block."""
        self._forget_peak()
        before, began, worked = _memory("VmRSS"), time.perf_counter(), time.process_time()
        yield
        self.figures[f"{name}_s"] = time.perf_counter() - began
        self.figures[f"{name}_cpu_s"] = time.process_time() - worked
        self.figures[f"{name}_peak"] = max(0, _memory("VmHWM") - before)

    def _forget_peak(self) -> None:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # VmHWM begins anew at VmRSS


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def manifest_of(num_clips: int, root: Path) -> Any:
    """A manifest of clips that are in no folder: (N,) rows as a scan writes them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from selavi.runs.manifest import SCHEMA

    digits = pa.array(np.arange(num_clips)).cast(pa.string())
    numbers = pc.utf8_lpad(digits, 9, "0")  # in order, as a scan gives them
    folders = pa.array(np.arange(num_clips) * NUM_NAMES // max(1, num_clips)).cast(pa.string())
    names = pc.binary_join_element_wise("class_", pc.utf8_lpad(folders, 3, "0"), "")
    ids = pc.binary_join_element_wise("train/", names, "/", numbers, ".mp4", "")
    usual: dict[str, Any] = {
        "id": ids,
        "path": ids,
        "label": names,
        "split": "train",
        "start_s": 0.0,
        "duration_s": 10.0,
        "fps": 30.0,
        "width": 340,
        "height": 256,
        "audio_state": "ok",
        "audio_s": 10.0,
        "timing": "stream",
        "bytes": 300_000,
        "mtime_ns": 1_700_000_000_000_000_000,
        "status": "ok",
    }
    columns = []
    for field in SCHEMA:
        value = usual.get(field.name)
        is_whole = isinstance(value, pa.Array | pa.ChunkedArray)
        columns.append(value if is_whole else pa.repeat(pa.scalar(value, field.type), num_clips))
    return pa.table(columns, schema=SCHEMA).replace_schema_metadata({"root": str(root)})


def ids_of(num_clips: int) -> Any:
    """The ids as this checkout's data module gives them."""
    ids = manifest_of(num_clips, Path("/nowhere"))["id"]
    try:
        from selavi.ids import ClipIds
    except ImportError:  # a list, before there was this
        return ids.to_pylist()
    return ClipIds(ids)


def labels_of(num_clips: int) -> Any:
    """(N, H) int32 labels."""
    import torch

    generator = torch.Generator().manual_seed(1)
    return torch.randint(NUM_CLUSTERS, (num_clips, NUM_HEADS), dtype=torch.int32, generator=generator)


def statistics_of(num_clips: int) -> dict[str, Any]:
    """(N, H) float32 by name, as a last labelling gives them."""
    import torch

    generator = torch.Generator().manual_seed(2)
    names = ("confidence", "margin", "entropy", "modality_agreement")
    return {name: torch.rand(num_clips, NUM_HEADS, generator=generator) for name in names}


def loader(num_clips: int, work: Path) -> Figures:
    """The first batch of a loader of files, and the memory of its own that its process has had beyond a small set's."""
    from datamodules.clips import ClipDataModule
    from selavi.config import load_config

    words = [f"data.root={work}", f"data.cache_dir={work / 'cache'}", f"run_dir={work / 'run'}", "data.demo=false"]
    words += ["data.num_workers=1", "data.cache_gb=0", "video.num_frames=2", "video.size=24", "video.decode_size=32"]
    words += ["audio.sample_rate=8000", "optim.batch_size=8", "labelling.batch_size=8", "trainer.accelerator=cpu"]
    config = load_config(ROOT / "configs" / "small.yaml", words)
    clock = Clock()
    made = {}
    for count in (1000, num_clips):
        data = ClipDataModule(config, manifest_of(count, work))
        batches = data.train_dataloader()
        with clock.part("first_batch"):
            next(iter(batches))
        made[count] = batches.process_bytes()
        del batches, data
    in_file = sum(path.stat().st_size for path in (work / "cache").glob("*.mapped"))
    own = max(0, made[num_clips] - made[1000])
    return clock.figures | {"process_bytes": own, "mapped_bytes": in_file}


def checkpoint(num_clips: int, work: Path) -> Figures:
    """A checkpoint that holds nothing but the label bank: written, read, and taken up by a bank of the same clips."""
    from selavi.labelling.bank import LabelBank
    from selavi.runs.checkpoint import write_checkpoint

    clock, ids, path = Clock(), ids_of(num_clips), work / "last.ckpt"
    bank = LabelBank(ids, NUM_HEADS, NUM_CLUSTERS)
    bank.labels = labels_of(num_clips)
    with clock.part("write"):
        write_checkpoint({"label_bank": bank.state_dict()}, path)
    with clock.part("read"):
        bank.load_state_dict(_opened(path)["label_bank"])
    return clock.figures | {"file_bytes": path.stat().st_size}


def _opened(path: Path) -> Any:
    """A checkpoint as a training opens it."""
    from selavi.runs import checkpoint as checkpoints

    try:
        from selavi.runs.stored import read_all
    except ImportError:  # all was read at once
        return checkpoints.read_checkpoint(path)
    return read_all(checkpoints.open_checkpoint(path), but=checkpoints.OF_CLIPS)


def write_labels(num_clips: int, work: Path) -> Figures:
    """RUN/labels/train.parquet."""
    from selavi.results.labels import write_labels as write

    clock, ids, labels, statistics = Clock(), ids_of(num_clips), labels_of(num_clips), statistics_of(num_clips)
    with clock.part("write"):
        path = write(work, "train", ids, labels, statistics)
    return clock.figures | {"file_bytes": path.stat().st_size}


def read_labels(num_clips: int, work: Path) -> Figures:
    """The same file, read back."""
    from selavi.results.labels import write_labels as write

    write(work, "train", ids_of(num_clips), labels_of(num_clips), statistics_of(num_clips))
    own: Figures = {}
    clock = Clock()
    with clock.part("read"), _own_peak(own):
        _read_labels(work)
    return clock.figures | {"read_own_peak": own["peak"]}


def _read_labels(work: Path) -> Any:
    try:
        from selavi.results.labels import read_labels as read
    except ImportError:  # where it was before
        from selavi.results.cluster_table import read_labels

        return read_labels(work, "train")
    return read(work, "train", with_statistics=True)


def cluster_tables(num_clips: int, work: Path) -> Figures:
    """What `export --head all` does for its tables: labels read, joined, ranked and written, as Parquet and CSV."""
    from selavi.results import cluster_table
    from selavi.results.labels import write_labels as write

    write(work, "train", ids_of(num_clips), labels_of(num_clips), statistics_of(num_clips))
    manifest, clock = manifest_of(num_clips, work), Clock()
    with clock.part("make"):
        labels = _read_labels(work)
        if hasattr(cluster_table, "ClusterTables"):
            tables = cluster_table.ClusterTables(labels, manifest)
            cluster_table.write_cluster_tables(map(tables.of_head, range(NUM_HEADS)), work)
        else:  # the whole table at once, as before
            cluster_table.write_cluster_table(cluster_table.cluster_table(labels, manifest, None), work)
    return clock.figures


def bookkeeping(num_clips: int, work: Path) -> Figures:
    """What a labelling does besides labelling: a draft, its churn, its used clusters; all on one thread."""
    from selavi.labelling import labeller
    from selavi.labelling.bank import LabelBank
    from selavi.labelling.race import Race

    bank = LabelBank(ids_of(num_clips), NUM_HEADS, NUM_CLUSTERS)
    bank.labels, bank.num_labellings = labels_of(num_clips), 1
    labels, clock = bank.labels.roll(1, 0), Clock()
    with clock.part("draft"):
        draft = labeller.Draft(bank)
        draft.labels.copy_(labels)
    draft.heads = [labeller.HeadReport(1, 0.0, True, Race({}, None))]
    with clock.part("end"):
        counted = [0] if "num_unseen" in inspect.signature(labeller._report).parameters else []  # since there is this
        labeller._report(1, draft, draft.hand_over(bank), *counted)
    return clock.figures


def ranks(num_clips: int, work: Path) -> Figures:
    """What the RANKS_A_NODE ranks of a machine have of the labels and of the draft of the next ones, together."""
    figures = _of_ranks("ranks", num_clips, work)
    together = {name: sum(each[name] for each in figures) for name in ("labels_bytes", "draft_bytes")}
    return together | {name: max(each[name] for each in figures) for name in ("draft_s", "end_s")}


def resume(num_clips: int, work: Path) -> Figures:
    """A checkpoint of after a last labelling, which RANKS_A_NODE ranks of a machine check, and go on from."""
    for count, folder in sizes_in(work, num_clips):
        _write_last_checkpoint(count, folder)
    return _summed(_of_ranks("resume", num_clips, work))


def _write_last_checkpoint(num_clips: int, folder: Path) -> None:
    import torch

    from selavi.labelling.bank import LabelBank
    from selavi.runs.checkpoint import write_checkpoint
    from selavi.runs.folder import RunFolder

    bank = LabelBank(ids_in_file(num_clips, folder), NUM_HEADS, NUM_CLUSTERS)
    bank.labels, bank.num_labellings = labels_of(num_clips), 1
    statistics = torch.rand(NUM_HEADS, 4, num_clips).permute(1, 2, 0)  # as a labelling leaves them
    names = ("confidence", "margin", "entropy", "modality_agreement")
    content = {"label_bank": bank.state_dict(), "statistics": dict(zip(names, statistics, strict=True))}
    write_checkpoint(content, RunFolder(folder).last_checkpoint)


def first_table(num_clips: int, work: Path) -> Figures:
    """First labels of a table with a row for each clip, of RANKS_A_NODE ranks of a machine."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for count, folder in sizes_in(work, num_clips):
        clusters = labels_of(count)[:, 0].numpy()
        table = pa.table({"id": ids_in_file(count, folder).array, "cluster": clusters})
        pq.write_table(table, folder / "clusters.parquet")
    return _summed(_of_ranks("first_table", num_clips, work))


def sizes_in(work: Path, num_clips: int) -> list[tuple[int, Path]]:
    """A small number of clips, with which a process has all that it needs whatever the number, and that number."""
    sizes = [(1000, work / "small"), (num_clips, work)]
    for _, folder in sizes:
        folder.mkdir(exist_ok=True)
    return sizes


def _summed(figures: list[Figures]) -> Figures:
    return {"together_peak": sum(each["peak"] for each in figures), "together_s": max(each["s"] for each in figures)}


def _of_ranks(part: str, num_clips: int, work: Path) -> list[Figures]:
    """Figures of each of the ranks of a machine, in a part of RANK_PARTS."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    words = [sys.executable, str(Path(__file__).resolve()), "--clips", str(num_clips), "--work", str(work)]
    words += ["--part", part]
    processes = [subprocess.Popen([*words, "--rank", str(rank)], env=environment) for rank in range(RANKS_A_NODE)]
    codes = [process.wait() for process in processes]
    if any(codes):
        sys.exit(f"ranks ended with {codes}")
    return [json.loads((work / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in range(RANKS_A_NODE)]


def ids_in_file(num_clips: int, work: Path) -> Any:
    """The ids of the clips, which all processes of a machine map."""
    import pyarrow as pa

    from selavi.ids import ClipIds

    path = work / "ids.arrow"
    if not path.exists():
        table = manifest_of(num_clips, work).select(["id"]).combine_chunks()
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    return ClipIds(pa.ipc.open_file(pa.memory_map(str(path))).read_all()["id"])


def one_rank(part: str, rank: int, num_clips: int, work: Path) -> None:
    """A rank of a section that starts several."""
    import torch.distributed as dist

    dist.init_process_group("gloo", rank=rank, world_size=RANKS_A_NODE)
    figures = RANK_PARTS[part](rank, num_clips, work)
    (work / f"rank{rank}.json").write_text(json.dumps(figures), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()


@contextmanager
def _own_peak(figures: Figures) -> Iterator[None]:
    """Note the most memory that this process has touched while a block runs, but for files', and the seconds."""
    done, most = threading.Event(), 0
    before, began = _touched(), time.perf_counter()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.002):
            most = max(most, _touched())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        figures["s"] = time.perf_counter() - began
        done.set()
        watcher.join()
        figures["peak"] = max(0, most - before)


def _touched() -> int:
    return _memory("RssAnon") + _memory("RssShmem")


def one_that_resumes(rank: int, num_clips: int, work: Path) -> Figures:
    """A rank of `resume`: what `selavi train` does with a checkpoint."""
    from selavi.labelling import statistics
    from selavi.labelling.bank import LabelBank
    from selavi.runs.checkpoint import newest_checkpoint
    from selavi.runs.folder import RunFolder

    figures: Figures = {}
    for count, folder in sizes_in(work, num_clips):
        bank: Any = LabelBank(ids_in_file(count, folder), NUM_HEADS, NUM_CLUSTERS)
        with _own_peak(figures):
            saved: Any = newest_checkpoint(RunFolder(folder))
            getattr(bank, "check", bank.load_state_dict)(saved.content["label_bank"])
            del saved
            content = _opened(RunFolder(folder).last_checkpoint)
            bank.load_state_dict(content["label_bank"])
            own = deepcopy(content["statistics"])  # as Lightning does for callbacks
            if hasattr(statistics, "read_statistics") and rank == 0:
                own = statistics.read_statistics(own, folder)
            del content
            if hasattr(bank, "share"):
                bank.share()
        assert 0 <= int(bank.labels[count // 2, 0]) < NUM_CLUSTERS
        del bank, own
    return figures


def one_that_labels_first(rank: int, num_clips: int, work: Path) -> Figures:
    """A rank of `first_table`."""
    from selavi.config import load_config
    from selavi.labelling.bank import LabelBank
    from selavi.training.first import give

    fields = [None] * len(inspect.signature(give.Source).parameters)  # nothing else is asked of it
    figures: Figures = {}
    for count, folder in sizes_in(work, num_clips):
        words = [f"labelling.first={folder / 'clusters.parquet'}", f"heads.num_heads={NUM_HEADS}"]
        config = load_config(None, [*words, f"heads.num_clusters={NUM_CLUSTERS}"])
        bank: Any = LabelBank(ids_in_file(count, folder), NUM_HEADS, NUM_CLUSTERS)
        with _own_peak(figures):
            if hasattr(give, "check_first"):
                give.check_first(config, reads=rank == 0)
            else:  # the table was kept until its labels were made
                reads = {"reads": rank == 0} if "reads" in inspect.signature(give.read_first).parameters else {}
                fields[0] = give.read_first(config, **reads)
            give.give_first_labels(config, bank, give.Source(*fields), 1)
            if hasattr(bank, "share"):
                bank.share()
        assert bool((bank.labels[:1000] >= 0).all())
        del bank
    return figures


def one_that_drafts(rank: int, num_clips: int, work: Path) -> Figures:
    """A rank of `ranks`: it has labels, makes a draft of the next ones with the others, and hands it over."""
    import torch
    import torch.distributed as dist

    from selavi.distributed import gather_rows
    from selavi.labelling import labeller
    from selavi.labelling.bank import LabelBank

    own = torch.arange(rank, num_clips, RANKS_A_NODE)
    figures: Figures = {}

    def label(draft: Any, shift: int) -> None:
        gather = getattr(draft, "gather", gather_rows)  # which takes them to the one that writes, since there is this
        rows = gather(own)
        draft.note_collected(rows, list(range(NUM_HEADS)))
        for head in range(NUM_HEADS):
            draft.put(rows, head, gather((own * (head + 1) + shift) % NUM_CLUSTERS))

    def together() -> int:
        dist.barrier()
        held = _held()
        dist.barrier()
        return held

    trial = LabelBank([""] * num_clips, NUM_HEADS, NUM_CLUSTERS)
    draft = labeller.Draft(trial)
    label(draft, 0)
    draft.hand_over(trial)
    ids = trial.ids  # those of a run are mapped
    del draft, trial  # messages have their buffers now
    first = together()
    bank = LabelBank(ids, NUM_HEADS, NUM_CLUSTERS)
    bank.ids = ids  # earlier ones had a list of their own
    draft = labeller.Draft(bank)
    label(draft, 0)
    draft.hand_over(bank)
    del draft
    labelled = together()
    figures["labels_bytes"] = labelled - first
    began = time.perf_counter()
    draft = labeller.Draft(bank)
    label(draft, 1)
    figures["draft_s"] = time.perf_counter() - began
    figures["draft_bytes"] = together() - labelled
    began = time.perf_counter()
    assert draft.hand_over(bank) == 1.0
    figures["end_s"] = time.perf_counter() - began
    return figures


RANK_PARTS: dict[str, Callable[[int, int, Path], Figures]] = {
    "ranks": one_that_drafts,
    "resume": one_that_resumes,
    "first_table": one_that_labels_first,
}
"""What each rank of a section does, and measures."""


def _held() -> int:
    """Bytes of this process, what it could give back given back; of a page that n processes have, an n-th."""
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii", errors="replace").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def last_statistics(num_clips: int, work: Path) -> Figures:
    """Statistics of a last labelling, filled head by head: memory that is not a file's."""
    import torch

    from selavi.labelling import labeller
    from selavi.labelling.bank import LabelBank

    bank = LabelBank([""] * num_clips, NUM_HEADS, NUM_CLUSTERS)
    if "statistics_in" not in inspect.signature(labeller.Draft.__init__).parameters:
        return {}  # the relabelling made them, in memory
    before, clock = _memory("RssAnon"), Clock()
    with clock.part("fill"):
        draft: Any = labeller.Draft(bank, work)
        rows, values = torch.arange(num_clips), torch.rand(4, num_clips)
        for head in range(NUM_HEADS):
            draft.statistics[:, rows, head] = values
    del rows, values
    draft.labels = None  # those of the bank, which this is not about
    return {"fill_s": clock.figures["fill_s"], "anonymous_bytes": max(0, _memory("RssAnon") - before)}


def nmi(num_clips: int, work: Path) -> Figures:
    """NMI of all heads with people's labels, for the log: what the data module gives, and what each labelling costs."""
    from datamodules.clips import ClipDataModule
    from selavi.config import load_config
    from selavi.training.callbacks import labelling

    words = [f"data.root={work}", f"data.cache_dir={work / 'cache'}", f"run_dir={work / 'run'}", "data.demo=false"]
    config = load_config(ROOT / "configs" / "small.yaml", [*words, "data.cache_gb=0", "trainer.accelerator=cpu"])
    data, labels, clock = ClipDataModule(config, manifest_of(num_clips, work)), labels_of(num_clips), Clock()
    with clock.part("labels"):
        human = data.labels
        number = getattr(labelling, "number_labels", None)
        human = human if number is None else number(human)
    with clock.part("nmi"):
        value = labelling.mean_nmi(human, labels)
    return clock.figures | {"value": value}


def alignment(num_clips: int, work: Path) -> Figures:
    """The assignment problem of one head, which does not depend on the number of clips."""
    import torch

    from selavi.labelling.alignment import align

    clock, generator = Clock(), torch.Generator().manual_seed(3)
    for name, size in (("few", NUM_CLUSTERS), ("many", MANY_CLUSTERS)):
        cost = torch.rand(size, size, dtype=torch.float64, generator=generator)
        with clock.part(name):
            align(cost)
    return clock.figures


SECTIONS: dict[str, Callable[[int, Path], Figures]] = {
    function.__name__: function
    for function in (
        loader,
        checkpoint,
        write_labels,
        read_labels,
        cluster_tables,
        bookkeeping,
        ranks,
        resume,
        first_table,
        last_statistics,
        nmi,
        alignment,
    )
}


def run_section(name: str, num_clips: int, checkout: Path) -> Figures:
    """Run a section in a new process by the code of a checkout."""
    with tempfile.TemporaryDirectory(prefix="selavi-scale-") as work:
        words = [str(Path(__file__).resolve()), "--section", name, "--clips", str(num_clips), "--work", work]
        environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        done = subprocess.run([sys.executable, *words], env=environment, cwd=checkout, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name} of {num_clips:,} clips in {checkout} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(num_clips: int, sections: Sequence[str], rounds: int, checkouts: Mapping[str, Path]) -> dict[str, Any]:
    """Figures of each section for each checkout, a list of one value a round; checkouts take turns."""
    kept: dict[str, Any] = {}
    for number in range(rounds):
        for section in sections:
            for name, checkout in checkouts.items():
                if num_clips >= LARGE and name == "before" and section in NOW_ALONE:
                    continue
                figures = run_section(section, num_clips, checkout)
                print(f"round {number + 1}, {num_clips:,} clips, {section}, {name}: {figures}", file=sys.stderr)
                of_section = kept.setdefault(section, {}).setdefault(name, {})
                for key, value in figures.items():
                    of_section.setdefault(key, []).append(value)
    return kept


ROWS = (
    ("a loader process: memory of its own beyond a small set's", "loader", "process_bytes"),
    ("a file that all processes of a machine map", "loader", "mapped_bytes"),
    ("a loader's first batch", "loader", "first_batch_s"),
    ("checkpoint: written", "checkpoint", "write_s"),
    ("checkpoint: memory to write it", "checkpoint", "write_peak"),
    ("checkpoint: read, and taken up", "checkpoint", "read_s"),
    ("checkpoint: memory to read it", "checkpoint", "read_peak"),
    ("checkpoint: the file", "checkpoint", "file_bytes"),
    ("labels/SPLIT.parquet: written", "write_labels", "write_s"),
    ("labels/SPLIT.parquet: memory to write it", "write_labels", "write_peak"),
    ("labels/SPLIT.parquet: the file", "write_labels", "file_bytes"),
    ("labels/SPLIT.parquet: read", "read_labels", "read_s"),
    ("labels/SPLIT.parquet: memory to read it", "read_labels", "read_peak"),
    ("labels/SPLIT.parquet: memory to read it that is not a file's", "read_labels", "read_own_peak"),
    ("cluster tables of all heads: read, made and written", "cluster_tables", "make_s"),
    ("cluster tables of all heads: memory for it", "cluster_tables", "make_peak"),
    ("a labelling's draft: memory", "bookkeeping", "draft_peak"),
    ("a labelling's end: churn, used clusters", "bookkeeping", "end_s"),
    ("8 ranks of a machine: their labels, together", "ranks", "labels_bytes"),
    ("8 ranks of a machine: a draft of the next ones, together", "ranks", "draft_bytes"),
    ("8 ranks on the two cores here: a draft gathered and written", "ranks", "draft_s"),
    ("8 ranks on the two cores here: a labelling's end", "ranks", "end_s"),
    ("8 ranks of a machine: go on from a checkpoint of a last labelling, together", "resume", "together_peak"),
    ("8 ranks on the two cores here: the same", "resume", "together_s"),
    ("8 ranks of a machine: first labels of a table, together", "first_table", "together_peak"),
    ("8 ranks on the two cores here: the same, read and all", "first_table", "together_s"),
    ("statistics of a last labelling: memory that is not a file's", "last_statistics", "anonymous_bytes"),
    ("statistics of a last labelling: written", "last_statistics", "fill_s"),
    ("NMI with people's labels, of all heads", "nmi", "nmi_s"),
    ("people's labels: memory", "nmi", "labels_peak"),
    ("alignment of a head, 400 clusters", "alignment", "few_s"),
    ("alignment of a head, 2000 clusters", "alignment", "many_s"),
)
"""What a line of the page says, and the section and figure that it shows."""


def tables(result: Mapping[str, Any]) -> str:
    """A table for each number of clips."""
    parts = []
    for size in result["sizes"]:
        names = list(next(iter(size["sections"].values())))
        rows = [
            [words, *(shown_time(size["sections"][section].get(name, {}), key) for name in names)]
            for words, section, key in ROWS
            if section in size["sections"]
        ]
        parts.append(f"## {size['clips']:,} clips\n\n{markdown_table(['', *names], rows)}")
    return "\n\n".join(parts)


def shown(key: str, values: Sequence[float] | None) -> str:
    """The median of a figure with its unit; a dash where this checkout has no such thing."""
    if not values:
        return "-"
    return f"{median(values):.2f} s" if key.endswith("_s") else f"{median(values) / 2**20:,.0f} MiB"


def shown_time(figures: Mapping[str, Sequence[float]], key: str) -> str:
    """A figure as `shown`; of a time, also the processor time."""
    worked = figures.get(f"{key.removesuffix('_s')}_cpu_s") if key.endswith("_s") else None
    return shown(key, figures.get(key)) + (f" ({median(worked):.2f})" if worked else "")


def node(size: Mapping[str, Any]) -> str:
    """What a machine with RANKS_A_NODE of RANKS ranks holds."""
    clips, cells = size["clips"], size["clips"] * NUM_HEADS
    mapped = median(size["sections"]["loader"]["now"]["mapped_bytes"])
    resumed, of_table = (
        median(size["sections"][section]["now"]["together_peak"]) for section in ("resume", "first_table")
    )
    lines = [
        ["columns of the clips and their ids, mapped", "once", mapped],
        ["label bank, int32", "once", 4 * cells],
        ["draft of the next labelling, while it is made", "once", 4 * cells],
        ["statistics of the last labelling, a mapped file where they are many", "first rank", 16 * cells],
        ["people's labels as numbers", f"{RANKS_A_NODE} ranks", 4 * clips * RANKS_A_NODE],
        ["for moments: a checkpoint that a run goes on from", "once", resumed],
        ["for moments: first labels of K-means", "once", 4 * cells + (4 * cells + 8 * clips) * RANKS_A_NODE / RANKS],
        ["for moments: first labels of a table, and a block of it", "once", of_table],
    ]
    rows = [[what, who, f"{num_bytes / 2**30:.2f} GiB"] for what, who, num_bytes in lines]
    return f"{clips:,} clips:\n\n{markdown_table(['', 'held by', 'a machine'], rows)}"


def page(result: Mapping[str, Any]) -> str:
    """docs/results/scale.md."""
    return PAGE.format(
        heads=NUM_HEADS,
        clusters=NUM_CLUSTERS,
        tables=tables(result),
        ranks=RANKS,
        a_node=RANKS_A_NODE,
        nodes="\n\n".join(map(node, result["sizes"])),
        machine=describe_machine([result]),
        date=result["date"],
        command=result["command"],
        rounds=result["rounds"],
        before=result["before"] or "none",
    )


PAGE = """# Millions of clips

What a run holds in memory and waits for because of the number of its clips, whatever its networks: the manifest, ids,
labels and tables, of made-up clips, {heads} heads of {clusters} clusters each.

{tables}

Each figure is from a process of its own on one thread (cluster tables are made on as many as there are cores), and
the median of {rounds} round(s). *before* is commit {before}; both took turns in each round. Other work ran on the
machine, so times are upper bounds; the processor time of the process, in brackets where it was measured, depends less
on that. *memory* is the most that the process has had beyond what it had when that part began; *of its own* leaves out
files and shared memory.

Each section runs the code of a run: the loader with one process whose files are missing, `LabelBank` in a checkpoint
without weights, `write_labels`, `read_labels`, `ClusterTables` and their files, the draft and the end of a labelling,
what a run does with a checkpoint and with a table of first labels, and the NMI that each labelling logs. Cluster tables
of all heads of ten million clips (a hundred million rows) were not made here; by the figures of a million they would
take about ten times as long and as much memory.

## What {ranks} ranks hold

Computed from the sizes of these structures, for machines of {a_node} ranks each. Features and scores of the clips
come on top; they are divided among all ranks.

{nodes}

Pages of the two mapped files need no memory while nobody reads them: the system writes them to the disk and takes
their room when it is needed. Nothing else is above 1 GiB a machine at ten million clips. For moments, while a run
begins and has no features yet, the first process of each machine reads the labels of a checkpoint, or makes first ones,
for all; the statistics of a last labelling go from the checkpoint into the mapped file. A table of labels is read in
blocks, of which numbers stay, 4 bytes for each clip and head, in the label bank itself; each block of half a million
rows looks at all ids, so that rows that are ten times as many take ten times as long. The table here has a row for each
clip; ids in another Unicode form than the run's would be kept as text until its end. What ranks send one another of a
head, 8 bytes a clip a few times over, lies on the GPUs, and without them in memory. *Together* above counts a page that
several ranks have once.

An assignment that aligns the heads of two modalities is solved by one rank a head, {ranks} heads at a time.

{machine} {date}, by `{command}`. Raw figures: [scale.json](../../benchmarks/results/scale.json).
"""


def main() -> None:
    """Measure all sections, or run one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="checkout of an earlier commit")
    parser.add_argument("--clips", type=int, default=0, help="a trial with so many clips")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sections", nargs="*", choices=SECTIONS, default=list(SECTIONS), help="with --clips")
    parser.add_argument("--again", nargs="+", choices=SECTIONS, default=[], help="these alone, of all numbers")
    parser.add_argument("--page", action="store_true", help="write the page again from kept figures")
    parser.add_argument("--section", choices=SECTIONS, help=argparse.SUPPRESS)
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--part", choices=RANK_PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank is not None:
        one_rank(arguments.part, arguments.rank, arguments.clips, arguments.work)
        return
    if arguments.section:
        print(json.dumps(SECTIONS[arguments.section](arguments.clips, arguments.work)))
        return
    if arguments.page:
        (PAGES / "scale.md").write_text(page(json.loads(STORE.read_text(encoding="utf-8"))), encoding="utf-8")
        return
    checkouts = {"before": arguments.before.resolve()} if arguments.before else {}
    checkouts["now"] = ROOT
    if arguments.clips:
        measured = measure(arguments.clips, arguments.sections, arguments.rounds, checkouts)
        print(tables({"sizes": [{"clips": arguments.clips, "sections": measured}]}))
        return
    about = measured_here()
    if arguments.again:
        kept = json.loads(STORE.read_text(encoding="utf-8"))
        for size in kept["sizes"]:
            fit = [section for section in arguments.again if size["clips"] == MILLION or section in AT_TEN_MILLION]
            size["sections"] |= measure(size["clips"], fit, size["rounds"], checkouts)
        keep(kept | {"environment": about})
        return
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", "benchmarks/scale.py", *words]),
        "rounds": arguments.rounds,
        "before": commit_of(arguments.before)[:12] if arguments.before else None,
        "environment": about,
        "sizes": [],
    }
    for num_clips, sections, rounds in ((MILLION, tuple(SECTIONS), arguments.rounds), (LARGE, AT_TEN_MILLION, 1)):
        measured = measure(num_clips, sections, rounds, checkouts)
        result["sizes"].append({"clips": num_clips, "rounds": rounds, "sections": measured})
        keep(result)


def keep(result: Mapping[str, Any]) -> None:
    """Write the figures and the page."""
    STORE.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (PAGES / "scale.md").write_text(page(result), encoding="utf-8")


def commit_of(checkout: Path) -> str:
    """The commit of a checkout."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=checkout, capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    main()
