"""Show how far a download is: a bar on a terminal, a line every 10 % elsewhere."""

import sys
from typing import Protocol, TextIO

_BAR_CELLS = 30
_STEP_PERCENT = 10
_STEP_BYTES = 32_000_000
"""How often a line is written where the size is not known."""


class Progress(Protocol):
    """Called in the thread that fetches, a few times a second, when something changed."""

    def __call__(self, done: int, total: int | None) -> None:
        """Take the bytes that are there and those of the whole model; None while not all sizes are known."""


class Renderer(Progress, Protocol):
    """Shows progress until it is closed."""

    def close(self) -> None:
        """End what is shown."""


class Bar:
    """One line of a terminal that is drawn again and again."""

    def __init__(self, name: str, stream: TextIO) -> None:
        """Draw on `stream`; `name` says what is fetched."""
        self._name = name
        self._stream = stream
        self._shown = ""

    def __call__(self, done: int, total: int | None) -> None:
        """Draw."""
        if total:
            filled = min(_BAR_CELLS, _BAR_CELLS * done // total)
            cells = "#" * filled + "." * (_BAR_CELLS - filled)
            text = f"{self._name} [{cells}] {_percent(done, total):3d} % of {total / 1e6:.1f} MB"
        else:
            text = f"{self._name} {done / 1e6:.1f} MB"
        if text != self._shown:
            self._stream.write("\r" + text.ljust(len(self._shown)))
            self._stream.flush()
            self._shown = text

    def close(self) -> None:
        """Leave the line."""
        if self._shown:
            self._stream.write("\n")
            self._stream.flush()
            self._shown = ""


class Lines:
    """A line for every 10 %, for logs."""

    def __init__(self, name: str, stream: TextIO) -> None:
        """Write to `stream`; `name` says what is fetched."""
        self._name = name
        self._stream = stream
        self._step = -1
        self._total: int | None = None

    def __call__(self, done: int, total: int | None) -> None:
        """Write a line if there is something new to say."""
        step = _percent(done, total) // _STEP_PERCENT if total else done // _STEP_BYTES
        if step <= self._step and (total is None) == (self._total is None):
            return
        self._total = total
        self._step = step
        text = f"{step * _STEP_PERCENT} % of {total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB"
        self._stream.write(f"{self._name}: {text}\n")
        self._stream.flush()

    def close(self) -> None:
        """Do nothing: every line is whole."""


def renderer(name: str, stream: TextIO | None = None) -> Renderer:
    """Return what suits the stream (default: stderr)."""
    stream = stream or sys.stderr
    return Bar(name, stream) if stream.isatty() else Lines(name, stream)


def after(first: Renderer, then: Progress) -> Progress:
    """Return what shows `then`, and ends `first` before."""

    def show(done: int, total: int | None) -> None:
        first.close()
        then(done, total)

    return show


def _percent(done: int, total: int) -> int:
    return min(100, 100 * done // total)
