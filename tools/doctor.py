"""Say whether this machine can train, and what holds it back: packages, codecs, memory, GPU, data against model."""

import argparse
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))  # so that a checkout works uninstalled

from selavi.cli import CONFIGS, Parser, run_tool


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    example = "Example: python tools/doctor.py --config vggsound data.root=/videos data.num_workers=16"
    parser = Parser("doctor", __doc__, example)
    parser.add_argument("--config", type=Path, default=Path("demo"), help="file or name, as for train (default: demo)")
    parser.add_argument("--seconds", type=float, default=30, help="to spend on measuring speed, roughly (default: 30)")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output instead of the table")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings of the run, as for train")
    return parser.parse_intermixed_args(argv)


def examine(args: argparse.Namespace, folder: Path) -> None:
    """Installation, machine, data, speed; stop where the next part could not work."""
    from datamodules.doctor.installation import examine_installation
    from datamodules.doctor.machine import read_machine
    from datamodules.doctor.report import Check, Report
    from selavi.errors import UsageError

    if not 0 < args.seconds < float("inf"):
        raise UsageError(f"--seconds must be above 0, got {args.seconds:g}")
    config, report = None, Report()
    with suppress(ImportError):  # what is broken is for the table to say
        from selavi.config import find_config, load_config

        config = load_config(find_config(args.config, CONFIGS), args.overrides)
    report.checks, outcomes = examine_installation(folder)
    try:
        if not report.problems and config is not None:
            measure(config, report, read_machine(config, outcomes["torch"]), folder, args.seconds)
    except UsageError as error:
        report.checks.append(Check("run", "settings", "problem", str(error)))
    print(report.as_json() if args.json else report.as_text())
    if report.problems:
        raise UsageError(f"training cannot work yet: {', '.join(check.name for check in report.problems)}, see above")


def measure(config: Any, report: Any, machine: Any, folder: Path, seconds: float) -> None:
    """The machine, then data against model, and what helps."""
    from datamodules.doctor import throughput
    from datamodules.doctor.machine import check_machine
    from selavi.training.speed import measure_faster, measure_model

    sample = throughput.find_sample(config, seconds / 10)
    report.checks += [*check_machine(machine, config), *throughput.check_sample(sample, config)]
    if report.problems:
        return
    until_s, model = time.monotonic() + seconds, measure_model(config, seconds / 5)
    report.checks.append(throughput.check_model(model.training, model.labelling, model.batch_size, model.device))
    report.measured["model"] = {name: value for name, value in asdict(model).items() if name != "device"}
    if sample is None:
        return
    data = throughput.measure_data(config, sample, folder, seconds / 4)
    flow = throughput.make_flow(config, data, model.training, model.labelling, machine)
    report.checks += throughput.check_flow(flow, data)
    report.measured |= {"data": asdict(data), "bottleneck": flow.bottleneck}
    trials = throughput.faster_data(config, sample, machine, folder, until_s) if flow.waits() else {}
    models = {} if flow.waits() else measure_faster(config, model, seconds / 4)
    report.advice = throughput.rank_advice(flow, throughput.faster_flows(flow, data, trials, models))


def main(argv: list[str] | None = None) -> int:
    """Run the tool; returns the exit code: 2 where something makes training impossible."""
    args = parse(argv)
    with tempfile.TemporaryDirectory(prefix="selavi-doctor-") as folder:
        return run_tool(lambda: examine(args, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
