"""`describe` and `select-program`: what is served here, and which of it a connection means."""

import asyncio

from wyoming.event import Event
from wyoming.info import Describe, SelectProgram

from wyoming_rknn.errors import InvalidRequest, RequestError
from wyoming_rknn.server.connection import Connection
from wyoming_rknn.server.service import Service
from wyoming_rknn.server.tts import TtsEvents


class DescribeEvents:
    """The part of a connection that is about the server itself."""

    def __init__(self, connection: Connection, service: Service, tts: TtsEvents) -> None:
        self._connection = connection
        self._service = service
        self._tts = tts

    async def handle(self, event: Event) -> bool:
        """Take an event in. Raises `RequestError` for a program that is not served here."""
        if Describe.is_type(event.type):
            await self._connection.request(_Description(self._connection, self._service))
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
        self._service.tts.check(name)
        self._tts.select_program(name)


class _Description:
    def __init__(self, connection: Connection, service: Service) -> None:
        self._connection = connection
        self._service = service

    async def run(self) -> None:
        # Looking for voices reads folders.
        offered = await asyncio.to_thread(self._service.tts.offered)
        await self._connection.send(self._service.info.describe(offered))

    def cancel(self) -> None:
        pass
