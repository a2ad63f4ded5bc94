"""`selavi localise` from a checkout, installed or not; see selavi/commands/localise.py."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # so that a checkout works uninstalled

from selavi.commands.main import tool

main = tool("localise", __file__)

if __name__ == "__main__":
    sys.exit(main())
