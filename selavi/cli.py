"""How every tool ends: a message and an exit code, never a traceback for what a user can mend."""

import sys
from collections.abc import Callable

from selavi.errors import DataError, Interrupted, NumericError, UsageError


def run_tool(action: Callable[[], None]) -> int:
    """Run a tool's action and return the exit code of DESIGN.md: 0, 2, 3, 4, 75 or 130; a crash stays a crash."""
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
    return 0
