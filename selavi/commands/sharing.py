"""Options of commands that go through a list of clips shard by shard, in as many processes as one likes.

Imports no torch.
"""

from typing import Protocol

from selavi.cli import Parser
from selavi.commands.on_ray import add_on_ray, check_on_ray
from selavi.wording import command

MOVED = (
    "If the media have moved since they were listed, by a manifest or by this command before it was stopped, say where "
    "they are now with data.root=NEW; clips keep their ids."
)


class SharedArguments(Protocol):
    """The values of these options that have limits."""

    @property
    def max_bad_fraction(self) -> float | None: ...


def add_paths(parser: Parser) -> None:
    """Which clips."""
    about = "files and folders; or one manifest (.parquet); or one folder or URL written by "
    about += command("prepare")
    parser.add_argument("paths", type="path", nargs="*", metavar="PATH", help=about)


def add_sharing(parser: Parser, *, shard: str, limit: str) -> None:
    """How the work is divided, and which files are taken.

    Args:
        parser: of the command.
        shard: what the clips of a shard are, in words.
        limit: where the largest share of unusable files comes from by default.
    """
    parser.add_argument("--shard-clips", type=int, metavar="N", help=f"{shard} (default: 1000)")
    add_task(parser)
    about = "number of processes that decode; 0: decode in this process (default: one for each core)"
    parser.add_argument("--workers", type=int, metavar="N", help=about)
    about = f"largest share of unusable files; more end with exit code 3 (default: {limit})"
    parser.add_argument("--max-bad-fraction", type=float, metavar="SHARE", help=about)
    parser.add_argument("--allow-links", action="store_true", help="follow links that lead out of a folder")
    about = "what the folders below a PATH mean (data.layout; default: recognised by their names)"
    parser.add_argument("--layout", choices=("auto", "classes", "splits", "flat"), help=about)


def add_task(parser: Parser) -> None:
    """Which share of the work."""
    about = "work on share i of n, counted from 0 (default: as a SLURM array or torchrun says, otherwise everything)"
    parser.add_argument("--task", metavar="i/n", help=about)
    add_on_ray(parser)


def describe_task(task: tuple[int, int], missing: str, last: str) -> str:
    """What is said where a task has done its share, and others have not.

    Args:
        task: number from 0, of how many.
        missing: what is still to come, in words.
        last: what the task that ends last does.
    """
    number, count = task
    return (
        f"task {number}/{count} is done: {missing}; the task that ends last {last}. Where no other task is left, the "
        "same command with --task 0/1 does what is missing"
    )


def check_sharing(arguments: SharedArguments) -> None:
    """Refuse a share that is none.

    Raises:
        UsageError: with what was found.
    """
    from selavi.commands.checks import at_least, require

    check_on_ray(arguments)
    at_least(arguments, views=1, shard_clips=1, workers=0)
    fraction = arguments.max_bad_fraction
    require(fraction is None or 0 <= fraction <= 1, f"--max-bad-fraction must be in [0, 1], got {fraction}")
