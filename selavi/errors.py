"""The errors that a user can cause, each with the exit code that the tools end with."""


class UsageError(ValueError):
    """A wrong setting, argument or input: exit code 2."""

    exit_code = 2


class DataError(RuntimeError):
    """More media files are unreadable than `data.max_bad_fraction` allows: exit code 3."""

    exit_code = 3


class NumericError(ArithmeticError):
    """A loss or gradient that is not finite: exit code 4."""

    exit_code = 4


class Interrupted(Exception):
    """A signal asked the run to stop; it can be resumed: exit code 75."""

    exit_code = 75
