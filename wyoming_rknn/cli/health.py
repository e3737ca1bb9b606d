"""`wyoming-rknn health`: ask whether the service answers."""

import argparse
import json
import socket
import sys
import time

from wyoming_rknn.cli.arguments import add_settings, settings_from
from wyoming_rknn.errors import UsageError

HELP = "exit 0 when the service answers within a second"

_TIMEOUT_S = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_settings(parser, ("uri", "tts_uri", "asr_uri"))


def run(arguments: argparse.Namespace) -> int:
    """Ask the service to describe itself."""
    # Imported without the wyoming package: a probe runs every few seconds on a small board.
    from wyoming_rknn.server.ports import ports

    endpoints = [port.endpoint for port in ports(settings_from(arguments))]
    endpoint = next((endpoint for endpoint in endpoints if endpoint.scheme != "stdio"), None)
    if endpoint is None:
        raise UsageError("a service on stdio cannot be asked from outside; name its tcp or unix address with --uri")
    deadline = time.monotonic() + _TIMEOUT_S
    try:
        with _connect(endpoint.scheme, endpoint.host, endpoint.port, str(endpoint.path)) as connection:
            connection.sendall(b'{"type": "describe"}\n')
            header = _first_line(connection, deadline)
        answered = json.loads(header).get("type") == "info"
    except (OSError, ValueError, AttributeError) as error:
        print(f"wyoming-rknn: {endpoint} does not answer: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    if not answered:
        print(f"wyoming-rknn: {endpoint} answers, but not with 'info'", file=sys.stderr)
        return 1
    return 0


def _connect(scheme: str, host: str, port: int, path: str) -> socket.socket:
    if scheme == "unix":
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(path)
        except OSError:
            connection.close()
            raise
        return connection
    loopback = {"": "localhost", "0.0.0.0": "127.0.0.1", "::": "::1"}
    return socket.create_connection((loopback.get(host, host), port), _TIMEOUT_S)


def _first_line(connection: socket.socket, deadline: float) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        byte = connection.recv(1)
        if not byte:
            raise OSError("it closed the connection")
        line += byte
    return line
