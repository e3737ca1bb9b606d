"""What the doctor says: one line for each thing it looks at."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from wyoming_rknn.runtime.runtimes import Runtimes
    from wyoming_rknn.settings import Settings

State: TypeAlias = Literal["ok", "warn", "fail"]
"""`fail` is for what the user asked for or installed and what cannot work; `warn` for what could be better."""
STATES: tuple[State, ...] = ("ok", "warn", "fail")
"""From good to bad."""


@dataclass(frozen=True, slots=True)
class Line:
    """The result of a check."""

    check: str
    """What was looked at, in one or two words."""
    state: State
    text: str
    fix: str = ""
    """What to do; empty if all is well."""


Check: TypeAlias = "Callable[[Settings, Runtimes], Iterator[Line]]"
"""Looks at one thing. To add one, write such a function and put it into `CHECKS`."""


def told(check: str, state: State, message: object, fix: str = "") -> Line:
    """Return a line of an error's message, which names its fix after a semicolon; `fix` is for those that do not."""
    if state == "ok":
        return Line(check, state, str(message))
    text, _, rest = str(message).partition("; ")
    return Line(check, state, text, rest or fix)
