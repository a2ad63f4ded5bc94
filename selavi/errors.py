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
    """A signal asked the run to stop; it can be resumed: exit code 75, or 130 for the keyboard."""

    def __init__(self, message: str, exit_code: int = 75) -> None:
        super().__init__(message)
        self.exit_code = exit_code
