"""How every tool ends: a message and an exit code, never a traceback for what a user can mend."""

import sys
from collections.abc import Callable

from selavi.errors import DataError, Interrupted, NumericError, UsageError
from selavi.filesystem import explain


def run_tool(action: Callable[[], None]) -> int:
    """Run a tool's action and return the exit code of DESIGN.md: 0, 2, 3, 4, 75 or 130; a crash stays a crash.

    What the system refuses (a full disk, a folder without permission, a name that is too long) is for the user to mend.
    """
    try:
        action()
    except (UsageError, DataError, NumericError) as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except Interrupted as error:
        print(f"{error}; go on with resume=auto", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("stopped by the keyboard", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        words = explain(error)
        if words is None:
            raise
        print(f"error: {words}", file=sys.stderr)
        return UsageError.exit_code
    return 0
