"""`python -m selavi NAME`."""

import sys

from selavi.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
