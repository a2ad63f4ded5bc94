"""The recipes that selavi brings: the YAML files of configs/ in a checkout, of selavi/recipes/ in a wheel."""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
_IN_WHEEL = _PACKAGE / "recipes"
RECIPES = _IN_WHEEL if _IN_WHEEL.is_dir() else _PACKAGE.parent / "configs"


def recipe_names() -> list[str]:
    """Names for --config."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def find_recipe(path: Path) -> Path:
    """A configuration file as it is named, or one of selavi's own by its name.

    Raises:
        UsageError: there is no such file.
    """
    from selavi.config import find_config

    return find_config(path, RECIPES)
