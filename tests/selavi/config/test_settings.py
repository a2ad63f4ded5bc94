import math

import pytest

from selavi.config import SETTINGS, Config
from selavi.config.settings import Limits


@pytest.mark.parametrize(
    ("limits", "words", "allowed", "refused"),
    [
        (Limits(), "", [-1e9, 0, math.inf], []),
        (Limits(least=0), "0 or more", [0, 1e9], [-1, math.nan]),
        (Limits(least=2, why="batch norm"), "at least 2 (batch norm)", [2, 3], [1]),
        (Limits(above=0), "above 0", [1e-9], [0, -1, math.nan]),
        (Limits(least=0, most=1), "in [0, 1]", [0, 1], [-0.1, 1.1]),
        (Limits(least=0, below=1), "in [0, 1)", [0, 0.9], [1]),
        (Limits(above=0, most=1), "in (0, 1]", [1], [0]),
        (Limits(above=0, below=2), "in (0, 2)", [1], [0, 2]),
        (Limits(least=0.04, most=600, unit="seconds"), "0.04 to 600 seconds", [0.04, 600], [0, 601]),
    ],
)
def test_limits_are_kept_and_said(limits: Limits, words: str, allowed: list[float], refused: list[float]) -> None:
    assert str(limits) == words
    assert all(map(limits.allow, allowed))
    assert not any(map(limits.allow, refused))


def test_defaults_are_within_their_limits_and_not_shared() -> None:
    first, second = Config(), Config()
    assert all(entry.is_default(first) for entry in SETTINGS.values())
    first.labelling.weights["video"] = 2.0
    assert second.labelling.weights == {"video": 1.0, "audio": 1.0}
