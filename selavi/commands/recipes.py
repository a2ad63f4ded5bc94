"""The recipes that selavi brings: the YAML files of configs/ in a checkout, of selavi/recipes/ in a wheel."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selavi.config import Config

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


def has_labellings_of_recipe(config: "Config", path: Path | None) -> bool:
    """Whether a run makes no more labellings for its epochs than the recipe that its settings come from.

    Args:
        config: of the run.
        path: the file of its settings; None: those of the run that it goes on with.
    """
    from selavi.config import load_config

    if path is None:
        return True
    if path.resolve().parent != RECIPES.resolve():
        return False
    recipe = load_config(path, [])
    a_run, of_recipe = config.labelling.num_labellings, recipe.labelling.num_labellings
    return a_run * recipe.trainer.max_epochs <= of_recipe * config.trainer.max_epochs
