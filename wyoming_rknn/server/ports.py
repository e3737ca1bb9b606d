"""Where the server listens, and what it serves there."""

from dataclasses import dataclass

from wyoming_rknn.errors import UsageError
from wyoming_rknn.server.endpoint import Endpoint
from wyoming_rknn.server.instance import Kind
from wyoming_rknn.settings import DEFAULT_URI, Settings

_PROGRAM = "?program="


@dataclass(frozen=True, slots=True)
class Port:
    """An address and its purpose."""

    kind: Kind
    endpoint: Endpoint
    program: str | None = None
    """The speech-to-text program that goes first here."""
    place: int = 0
    """Or its place in the list of all."""


def ports(settings: Settings) -> list[Port]:
    """Return all ports that the settings name, or the default one. Raises `UsageError`.

    The speech-to-text ports prefer one program each, in the order in which programs are offered, unless a URI names
    one: Home Assistant knows only the first program of a port.
    """
    everything = settings.uri or (() if settings.tts_uri or settings.asr_uri else (DEFAULT_URI,))
    found = [Port("all", Endpoint.parse(uri)) for uri in everything]
    found += [Port("tts", Endpoint.parse(uri)) for uri in settings.tts_uri]
    for place, uri in enumerate(settings.asr_uri):
        address, mark, program = uri.partition(_PROGRAM)
        if mark and not program:
            raise UsageError(f"{uri!r} names no program; write {address}{_PROGRAM}NAME, or leave {_PROGRAM} out")
        found.append(Port("asr", Endpoint.parse(address), program or None, place))
    return found
