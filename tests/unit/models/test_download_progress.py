"""What is shown while a model is fetched."""

import io

import pytest

from wyoming_rknn.models.fetching.progress import Bar, Lines, after, renderer


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_every_tenth() -> None:
    stream = io.StringIO()
    show = renderer("amy", stream)
    for done in range(0, 63_200_001, 100_000):
        show(done, 63_200_000)
    show.close()
    assert stream.getvalue().splitlines() == [f"amy: {tenth} % of 63.2 MB" for tenth in range(0, 101, 10)]


def test_tenths_that_were_jumped_over_are_not_told() -> None:
    stream = io.StringIO()
    show = Lines("amy", stream)
    for done in (35, 39, 38, 100, 100):
        show(done, 100)
    assert stream.getvalue() == "amy: 30 % of 0.0 MB\namy: 100 % of 0.0 MB\n"


def test_lines_without_a_size() -> None:
    stream = io.StringIO()
    show = Lines("amy", stream)
    for done in range(0, 70_000_000, 1_000_000):
        show(done, None)
    assert stream.getvalue() == "amy: 0.0 MB\namy: 32.0 MB\namy: 64.0 MB\n"


def test_a_size_that_turns_up_begins_a_new_count() -> None:
    stream = io.StringIO()
    show = Lines("amy", stream)
    show(400_000_000, None)
    show(410_000_000, 1_000_000_000)
    assert stream.getvalue() == "amy: 400.0 MB\namy: 40 % of 1000.0 MB\n"


def test_a_bar_on_a_terminal() -> None:
    stream = Terminal()
    show = renderer("amy", stream)
    assert isinstance(show, Bar)
    show(0, 2_000_000)
    show(1_000_000, 2_000_000)
    show(1_000_001, 2_000_000)
    show(2_000_000, 2_000_000)
    show.close()
    show.close()
    assert stream.getvalue() == (
        f"\ramy [{'.' * 30}]   0 % of 2.0 MB\ramy [{'#' * 15}{'.' * 15}]  50 % of 2.0 MB"
        f"\ramy [{'#' * 30}] 100 % of 2.0 MB\n"
    )


def test_a_bar_without_a_size_leaves_nothing_behind() -> None:
    stream = Terminal()
    show = Bar("amy", stream)
    show(10_000_000, None)
    show(9_000_000, None)
    show.close()
    assert stream.getvalue() == "\ramy 10.0 MB\ramy 9.0 MB \n"


@pytest.mark.parametrize("kind", [Bar, Lines])
def test_nothing_to_fetch_shows_nothing(kind: type[Bar] | type[Lines]) -> None:
    stream = io.StringIO()
    kind("amy", stream).close()
    assert stream.getvalue() == ""


def test_one_after_the_other() -> None:
    stream = Terminal()
    first = Bar("amy", stream)
    second = after(first, Lines("amy, unpacking", stream))
    first(1_000_000, None)
    second(5, 10)
    second(10, 10)
    assert stream.getvalue().splitlines()[-2:] == ["amy, unpacking: 50 % of 0.0 MB", "amy, unpacking: 100 % of 0.0 MB"]
