"""Labels for videos with sound, without a human: audio-visual self-labelling (SeLaVi).

    import selavi

    run = selavi.label("videos", num_clusters=20)
    run.table()

Importing it takes no time: what is needed is imported where it is used first.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selavi.commands.python import (
        LabelledRun,
        assign,
        assign_scores,
        evaluate,
        export,
        label,
        load,
        open_run,
        train,
    )

__version__ = "0.1.0"
__all__ = [
    "LabelledRun",
    "__version__",
    "assign",
    "assign_scores",
    "evaluate",
    "export",
    "label",
    "load",
    "open_run",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module("selavi.commands.python"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
