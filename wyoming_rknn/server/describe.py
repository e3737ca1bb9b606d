"""`describe` and `select-program`: what is served here, and which of it a connection means."""

import asyncio

from wyoming.event import Event
from wyoming.info import Describe, SelectProgram

from wyoming_rknn.asr.programs import AsrPort
from wyoming_rknn.errors import InvalidRequest, ProgramNotFound, RequestError
from wyoming_rknn.server.asr import AsrEvents
from wyoming_rknn.server.connection import Connection
from wyoming_rknn.server.info import Manners
from wyoming_rknn.server.service import Service
from wyoming_rknn.server.tts import TtsEvents


class DescribeEvents:
    """The part of a connection that is about the server itself. What a port does not serve is `None`."""

    def __init__(
        self, connection: Connection, service: Service, port: AsrPort, tts: TtsEvents | None, asr: AsrEvents | None
    ) -> None:
        self._connection = connection
        self._service = service
        self._port = port
        self._tts = tts
        self._asr = asr

    async def handle(self, event: Event) -> bool:
        """Take an event in. Raises `RequestError` for a program that is not served here."""
        if Describe.is_type(event.type):
            description = _Description(
                self._connection, self._service, self._port, self._tts is not None, self._asr is not None
            )
            self._connection.request(description)
        elif SelectProgram.is_type(event.type):
            self._select(event)
        else:
            return False
        return True

    def starved(self) -> bool:
        """Return `False`: these events arrive whole."""
        return False

    def cancel(self, reason: RequestError | None = None) -> None:
        """Do nothing: these events arrive whole."""

    def _select(self, event: Event) -> None:
        name = event.data.get("name")
        if not isinstance(name, str):
            raise InvalidRequest("'select-program' has no 'name' that is a string")
        known: list[str] = []
        for events, programs in ((self._tts, self._service.tts), (self._asr, self._service.asr)):
            if events is None:
                continue
            if name in programs.names:
                events.select_program(name)
                return
            known += programs.names
        raise ProgramNotFound(name, known)


class _Description:
    def __init__(self, connection: Connection, service: Service, port: AsrPort, speaks: bool, listens: bool) -> None:
        self._connection = connection
        self._service = service
        self._port = port
        self._speaks = speaks
        self._listens = listens

    async def run(self) -> None:
        # Looking for voices and models reads folders.
        await self._connection.send(await asyncio.to_thread(self._describe))

    def _describe(self) -> Event:
        service = self._service
        tts = service.tts.offered() if self._speaks else ()
        asr = service.asr.offered(self._port) if self._listens else ()
        key = (self._port, self._speaks, self._listens)
        return service.info.describe(key, tts, asr, Manners.of(service.settings))

    def cancel(self) -> None:
        pass
