"""Requests that another port serves."""

from collections.abc import Collection

from wyoming.event import Event

from wyoming_rknn.errors import InvalidRequest, RequestError
from wyoming_rknn.server.connection import Connection, Refusal

SPEECH = ("synthesize", "synthesize-start")
"""Events that ask for speech."""
LISTENING = ("transcribe", "audio-start")
"""Events that ask for a transcript."""


class ElsewhereEvents:
    """Refuse what a port does not serve, rather than leave it without an answer."""

    def __init__(self, connection: Connection, refused: Collection[str], serves: str) -> None:
        self._connection = connection
        self._refused = refused
        self._serves = serves

    async def handle(self, event: Event) -> bool:
        """Refuse an event that is served elsewhere."""
        if event.type not in self._refused:
            return False
        error = InvalidRequest(f"'{event.type}' is not served here; this port serves only {self._serves}")
        self._connection.request(Refusal(self._connection, error, closes=True))
        return True

    def starved(self) -> bool:
        """Return `False`: nothing is taken in."""
        return False

    def cancel(self, reason: RequestError | None = None) -> None:
        """Do nothing: nothing is taken in."""
