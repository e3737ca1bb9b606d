"""What a server in this process logs."""

import logging

import pytest


class Log:
    """What the server in this process logged since the test began."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    @property
    def records(self) -> list[logging.LogRecord]:
        return [record for record in self._caplog.records if record.name.startswith(("wyoming_rknn", "asyncio"))]

    def at(self, level: int) -> list[str]:
        return [record.getMessage() for record in self.records if record.levelno == level]

    @property
    def warnings(self) -> list[str]:
        return self.at(logging.WARNING)

    @property
    def infos(self) -> list[str]:
        return self.at(logging.INFO)

    def clear(self) -> None:
        self._caplog.clear()

    def check(self, warnings: int = 0) -> None:
        """Assert that exactly so many warnings were logged, no errors, and no traceback."""
        assert len(self.warnings) == warnings, self.warnings
        assert not [record.getMessage() for record in self.records if record.levelno > logging.WARNING]
        assert not [record.getMessage() for record in self.records if record.exc_info]
