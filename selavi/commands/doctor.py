"""Check whether this machine can train, and what would slow it down: packages, codecs, memory, GPU, data or model."""

import math
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from selavi.cli import Command, Parser
from selavi.commands.recipes import find_recipe
from selavi.errors import UsageError
from selavi.wording import command

if TYPE_CHECKING:
    from datamodules.doctor.report import Outcome, Report
    from selavi.config import Config


@dataclass(frozen=True)
class DoctorArguments:
    """What is to be trained, and how long to look."""

    config: Path = Path("demo")
    seconds: float = 30.0
    json: bool = False
    overrides: Sequence[str] = ()


@dataclass(frozen=True)
class DoctorResult:
    """What was looked at; `report.problems` are those that make training impossible."""

    report: "Report"
    as_json: bool = False


def add_arguments(parser: Parser) -> None:
    """Describe the command line."""
    words = ("--config", "vggsound", "data.root=/videos", "data.num_workers=16")
    parser.add_example(command("doctor", *words))
    about = "YAML file, or the name of one of selavi's recipes (default: demo)"
    parser.add_argument("--config", type=Path, metavar="NAME", help=about)
    parser.add_argument(
        "--seconds", type=float, metavar="SECONDS", help="how long to measure speed, roughly (default: 30)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.take_settings("settings of the run, as for train")


def doctor(arguments: DoctorArguments) -> DoctorResult:
    """Look at installation, machine, data and speed; stop where the next part could not work."""
    with tempfile.TemporaryDirectory(prefix="selavi-doctor-") as folder:
        return _examine(arguments, Path(folder))


def _examine(arguments: DoctorArguments, folder: Path) -> DoctorResult:
    from datamodules.doctor.installation import examine_installation
    from datamodules.doctor.report import Check, Report

    if not (math.isfinite(arguments.seconds) and arguments.seconds > 0):
        raise UsageError(f"--seconds must be above 0, got {arguments.seconds:g}")
    config = None
    report = Report()
    with suppress(ImportError):  # what is broken is for the table to say
        from selavi.config import load_config

        config = load_config(find_recipe(arguments.config), arguments.overrides)
    report.checks, outcomes = examine_installation(folder)
    try:
        if not report.problems and config is not None:
            _measure(config, report, outcomes["torch"], folder, arguments.seconds)
    except UsageError as error:
        report.checks.append(Check("run", "settings", "problem", str(error)))
    return DoctorResult(report, arguments.json)


def _measure(config: "Config", report: "Report", torch: "Outcome", folder: Path, seconds: float) -> None:
    """Look at the machine, then measure data against model, and what helps."""
    from datamodules.doctor import throughput
    from datamodules.doctor.machine import check_machine, read_machine
    from selavi.training.forecast import num_passes
    from selavi.training.speed import measure_faster, measure_model

    machine = read_machine(config, torch)
    sample = throughput.find_sample(config, seconds / 10)
    report.checks += [*check_machine(machine, config), *throughput.check_sample(sample, config)]
    if report.problems:
        return
    until_s = time.monotonic() + seconds
    model = measure_model(config, seconds / 5)
    report.checks.append(throughput.check_model(model.training, model.labelling, model.batch_size, model.device))
    report.measured["model"] = {name: value for name, value in asdict(model).items() if name != "device"}
    if sample is None:
        return
    data = throughput.measure_data(config, sample, folder, seconds / 4)
    steps_per_epoch = max(1, sample.num_files // config.optim.batch_size)
    passes = num_passes(config, steps_per_epoch)
    flow = throughput.make_flow(config, data, model.training, model.labelling, machine, passes)
    report.checks += throughput.check_flow(flow, data)
    report.measured |= {"data": asdict(data), "bottleneck": flow.bottleneck}
    trials = throughput.faster_data(config, sample, machine, folder, until_s) if flow.waits() else {}
    models = {} if flow.waits() else measure_faster(config, model, seconds / 4)
    kept_share = None
    if config.labelling_method.relabels and config.labelling.features == "fresh":
        kept = replace(config, labelling=replace(config.labelling, features="kept"))
        kept_share = throughput.share_of_labels(kept, num_passes(kept, steps_per_epoch))
    changed = throughput.faster_flows(flow, data, trials, models, kept_share)
    report.advice = throughput.rank_advice(flow, changed)


def show(result: DoctorResult) -> None:
    """Print the table.

    Raises:
        UsageError: something makes training impossible.
    """
    report = result.report
    print(report.as_json() if result.as_json else report.as_text())
    if report.problems:
        raise UsageError(f"training cannot work yet: {', '.join(check.name for check in report.problems)}, see above")


COMMAND = Command("doctor", __doc__, DoctorArguments, add_arguments, doctor, show)
