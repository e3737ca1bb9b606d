"""Serve one client on standard input and output."""

import asyncio
import os
import stat
import sys
import threading

_CHUNK = 65536


async def open_stdio(limit: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, threading.Thread | None]:
    """Return streams on the process's stdin and stdout, and a thread that ends once everything is written, if any.

    From here on whatever prints goes to stderr: stdout carries protocol bytes only. Files, which an event loop cannot
    wait for, are copied through a pipe.
    """
    sys.stdout.flush()
    incoming, outgoing = os.dup(0), os.dup(1)
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    if not _can_be_awaited(incoming):
        incoming = _copied_from(incoming)
    copier: threading.Thread | None = None
    if not _can_be_awaited(outgoing):
        outgoing, copier = _copied_to(outgoing)
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=limit)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(incoming, "rb", 0))
    transport, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), os.fdopen(outgoing, "wb", 0)
    )
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop), copier


def _can_be_awaited(descriptor: int) -> bool:
    mode = os.fstat(descriptor).st_mode
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or (stat.S_ISCHR(mode) and os.isatty(descriptor))


def _copied_from(source: int) -> int:
    receive, send = os.pipe()
    threading.Thread(target=_copy, args=(source, send), name="stdin", daemon=True).start()
    return receive


def _copied_to(target: int) -> tuple[int, threading.Thread]:
    receive, send = os.pipe()
    copier = threading.Thread(target=_copy, args=(receive, target), name="stdout", daemon=True)
    copier.start()
    return send, copier


def _copy(source: int, target: int) -> None:
    try:
        while chunk := os.read(source, _CHUNK):
            view = memoryview(chunk)
            while view:
                view = view[os.write(target, view) :]
    except OSError:
        pass
    finally:
        os.close(source)
        os.close(target)
