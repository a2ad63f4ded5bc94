"""How much a file may unpack to: a stranger's two megabytes must not become twenty gigabytes of memory."""

from selavi.errors import UsageError
from selavi.wording import byte_size

LEAST_BYTES = 1 << 28
"""What any file may unpack to."""
MOST_TIMES = 100
"""How many times its own size a larger file may unpack to."""


def budget_of(num_bytes: int, least: int | None = None) -> int:
    """Bytes of memory that a file of some bytes may unpack to; `least`, or LEAST_BYTES, is what any file may."""
    return max(LEAST_BYTES if least is None else least, MOST_TIMES * num_bytes)


def require_budget(name: str, num_bytes: int, unpacked: int) -> None:
    """Check what a file unpacks to, or has unpacked to so far.

    Args:
        name: of the file, for the message.
        num_bytes: its size.
        unpacked: bytes in memory.

    Raises:
        UsageError: more than its budget.
    """
    budget = budget_of(num_bytes)
    if unpacked > budget:
        raise UsageError(
            f"{name} has {byte_size(num_bytes)} and unpacks to {byte_size(unpacked)} or more, at most "
            f"{byte_size(budget)} are read: it is damaged, or made to fill the memory.  If you trust it, unpack it "
            "with the tool that wrote it, and write it again without compression"
        )
