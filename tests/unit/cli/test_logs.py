import io
import json
import logging
import warnings

import pytest

from wyoming_rknn.cli import logs


@pytest.fixture
def log(monkeypatch):
    """Return a function that sets logging up on a terminal that knows ASCII alone, and one that reads it."""
    written = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)

    def configure(level, layout):
        # Not before the test itself runs: until then stderr is pytest's to set.
        monkeypatch.setattr("sys.stderr", written)
        logs.configure(level, layout)

    yield configure, lambda: written.buffer.getvalue().decode("ascii").splitlines()


def test_one_line_of_text(log):
    configure, lines = log
    configure("info", "text")
    logging.getLogger("wyoming_rknn.server").info("hello %d", 1)
    (line,) = lines()
    assert line.endswith(" INFO wyoming_rknn.server: hello 1")


def test_one_object_per_line(log):
    configure, lines = log
    configure("info", "json")
    logging.getLogger("wyoming_rknn.server").warning("é\n%s", "x")
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("wyoming_rknn").exception("oh")
    first, second = map(json.loads, lines())
    assert (first["level"], first["logger"], first["message"]) == ("warning", "wyoming_rknn.server", "é\nx")
    assert "ValueError: broken" in second["exception"]
    assert set(first) == {"time", "level", "logger", "message"}


def test_the_level_is_the_programs_own(log):
    configure, lines = log
    configure("debug", "text")
    logging.getLogger("wyoming_rknn.a").debug("ours")
    logging.getLogger("another").info("theirs")
    logging.getLogger("another").warning("theirs, but serious")
    configure("error", "text")
    logging.getLogger("wyoming_rknn.a").warning("not serious enough")
    assert [line.rpartition(": ")[2] for line in lines()] == ["ours", "theirs, but serious"]


def test_setting_up_twice_does_not_write_twice(log):
    configure, lines = log
    configure("info", "text")
    configure("info", "text")
    logging.getLogger("wyoming_rknn").info("once")
    assert len(lines()) == 1


def test_what_the_terminal_lacks_is_escaped(log):
    configure, lines = log
    configure("info", "text")
    logging.getLogger("wyoming_rknn").info("语 \ud800")
    assert lines()[0].endswith(r": \u8bed \ud800")


def test_warnings_of_python_are_logged(log):
    configure, lines = log
    configure("info", "json")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert "DeprecationWarning: old" in json.loads(lines()[0])["message"]
