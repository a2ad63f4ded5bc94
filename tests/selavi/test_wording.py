import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selavi.wording import about, byte_size, called_as, command, duration, program, speed


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.04, "0.0 s"),
        (2.26, "2.3 s"),
        (9.97, "10 s"),
        (59.6, "1 min 00 s"),
        (160, "2 min 40 s"),
        (2446, "40 min 46 s"),
        (3600, "1 h 00 min"),
        (7 * 3600 + 61, "7 h 01 min"),
        (77832, "21 h 37 min"),
        (200_000, "2 days 8 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "about 5 s"),
        (43, "about 45 s"),
        (58, "about 1 min"),
        (2446, "about 41 min"),
        (3599, "about 1 h"),
        (4800, "about 1 h 20 min"),
        (77832, "about 21 h 40 min"),
        (90_000, "about a day"),
        (400_000, "about 5 days"),
    ],
)
def test_estimates_are_no_finer_than_they_can_be(seconds: float, words: str) -> None:
    assert about(seconds) == words


@given(st.floats(0, 1e9))
def test_no_duration_has_sixty_minutes_or_seconds(seconds: float) -> None:
    assert not {"60"} & {*duration(seconds).split(), *about(seconds).split()}


@pytest.mark.parametrize(
    ("num_bytes", "words"),
    [(0, "0 bytes"), (6400, "6.4 kB"), (9_990, "10 kB"), (999_700, "1.0 MB"), (3.1e9, "3.1 GB"), (5e12, "5.0 TB")],
)
def test_sizes(num_bytes: float, words: str) -> None:
    assert byte_size(num_bytes) == words


@pytest.mark.parametrize(
    ("per_second", "words"),
    [(0.0213, "0.0213"), (4.5649, "4.56"), (999.4, "999"), (999.7, "1,000"), (12_345, "12,300")],
)
def test_speeds(per_second: float, words: str) -> None:
    assert speed(per_second) == words


@given(st.lists(st.text(st.characters(blacklist_characters="\0"), min_size=1), max_size=4))
def test_a_command_survives_the_shell(words: list[str]) -> None:
    assert shlex.split(command("train", *words)) == ["selavi", "train", *words]


def test_a_folder_with_a_blank_is_quoted() -> None:
    assert command("train", "data.root=/my videos") == "selavi train 'data.root=/my videos'"


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        (("selavi", "{name}"), "selavi evaluate runs/demo"),
        (("python", "-m", "selavi", "{name}"), "python -m selavi evaluate runs/demo"),
        (("python", "tools/{tool}.py"), "python tools/cluster_eval.py runs/demo"),
        (("python", "../my tools/{tool}.py"), "python '../my tools/cluster_eval.py' runs/demo"),
        (("selavi-{script}",), "selavi-cluster-eval runs/demo"),
    ],
)
def test_commands_are_printed_as_the_program_was_called(form: tuple[str, ...], shown: str) -> None:
    with called_as(*form):
        assert command("evaluate", "runs/demo") == shown
        assert program("evaluate") in shown.replace("'", "")
    assert command("evaluate") == "selavi evaluate"
