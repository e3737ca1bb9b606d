"""The test double's control file and its log of calls."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Call:
    """A line of the log: the call's name, its return code, and all else that it notes."""

    name: str
    rc: int
    notes: dict[str, str]


@dataclass(frozen=True)
class Control:
    """What is asked of the double by files; their names go into RKNN_DOUBLE_CONTROL and RKNN_DOUBLE_LOG."""

    path: Path
    log: Path

    def set(self, **settings: object) -> None:
        """Let these settings count from now on, and no earlier ones: `control.set(run_rc=-1, good_runs=2)`."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text("".join(f"{name.upper()}={value}\n" for name, value in settings.items()))
        fresh.replace(self.path)

    def calls(self, name: str | None = None) -> list[Call]:
        """Return what was called so far, all or the calls of one name, in the order in which they ended."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        calls = []
        for line in lines:
            first, *rest = line.split(" ")
            notes = dict(part.split("=", 1) for part in rest)
            calls.append(Call(first, int(notes.pop("rc")), notes))
        return [call for call in calls if name in (None, call.name)]
