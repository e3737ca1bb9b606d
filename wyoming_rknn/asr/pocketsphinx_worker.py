"""The child process in which pocketsphinx works: `python -m wyoming_rknn.asr.pocketsphinx_worker`.

pocketsphinx holds Python's interpreter lock while it decodes, so it has a process of its own. That one loads the model
once and forks for every utterance. So each is decoded from the same fresh state, which pocketsphinx has no call to
return to; giving one up, or a crash, costs no loading; and the memory is given back.

A message is its number and the length of what follows, both little-endian uint32. To the child: int16 audio, or
nothing at all to give up what it works on. From the child: JSON with `words`, each with its first frame, or an `error`;
number 0 comes when the model is loaded.
"""

import contextlib
import ctypes
import json
import os
import re
import select
import signal
import struct
import sys
from typing import Any

from wyoming_rknn.runtime.child import ending

HEADER = struct.Struct("<II")
CHUNK_BYTES = 1 << 16
_PR_SET_PDEATHSIG = 1
_MAX_HMMS_PER_FRAME = 5000
"""Of 30000 by default: a quarter less work, most of it for unclear speech, and no more wrong words in the test data."""


def serve(stdin: int, stdout: int) -> None:
    """Load the model, then answer until `stdin` ends, as it does when the server ends, however that came."""
    try:
        from pocketsphinx import Decoder

        decoder = Decoder(loglevel="FATAL", maxhmmpf=_MAX_HMMS_PER_FRAME)
    except Exception as error:
        _write(stdout, 0, {"error": _described(error)})
        return
    _write(stdout, 0, {})
    message = _read(stdin)
    while message is not None:
        number, pcm = message
        message = None
        if pcm:
            answer, message = _decoded_apart(decoder, pcm, stdin, stdout)
            if answer is not None:
                _write(stdout, number, answer)
        del pcm
        message = message or _read(stdin)


def _decoded_apart(
    decoder: Any,  # noqa: ANN401 - pocketsphinx ships no types
    pcm: bytes,
    stdin: int,
    stdout: int,
) -> tuple[dict[str, Any] | None, tuple[int, bytes] | None]:
    """Decode in a copy of this process; returns the answer, or none and the message that came before it."""
    parent = os.getpid()
    reading, writing = os.pipe()
    try:
        copy = os.fork()
    except OSError as error:
        os.close(reading)
        os.close(writing)
        return {"error": f"could not begin ({error.strerror})"}, None
    if copy == 0:
        _be_copy(decoder, pcm, parent, writing, unused=(stdin, stdout, reading))
    os.close(writing)
    answer = b""
    poll = select.poll()
    poll.register(stdin, select.POLLIN)
    poll.register(reading, select.POLLIN)
    try:
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if reading in ready:
                part = os.read(reading, CHUNK_BYTES)
                answer += part
                if not part:
                    break
            elif stdin in ready:
                os.kill(copy, signal.SIGKILL)
                message = _read(stdin)
                if message is None:
                    sys.exit()
                return None, message
    finally:
        os.close(reading)
        _, status = os.waitpid(copy, 0)
    code = os.waitstatus_to_exitcode(status)
    return (json.loads(answer) if code == 0 else {"error": ending(code)}), None


def _be_copy(decoder: Any, pcm: bytes, parent: int, writing: int, unused: tuple[int, ...]) -> None:  # noqa: ANN401
    """Decode, answer and end; never returns."""
    code = 1
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        # It may have ended before the signal was asked for.
        if os.getppid() == parent:
            for descriptor in unused:
                os.close(descriptor)
            try:
                answer: dict[str, Any] = {"words": _decoded(decoder, pcm)}
            except Exception as error:
                answer = {"error": f"failed ({_described(error)})"}
            _write_all(writing, json.dumps(answer).encode())
            code = 0
    finally:
        os._exit(code)


def _decoded(decoder: Any, pcm: bytes) -> list[tuple[str, int]]:  # noqa: ANN401
    """Return the words, each with its first frame."""
    decoder.start_utt()
    decoder.process_raw(pcm, False, True)
    decoder.end_utt()
    # Without a hypothesis there are no segments to ask for.
    if decoder.hyp() is None:
        return []
    heard = ((segment.word, segment.start_frame) for segment in decoder.seg())
    # No words are <s> </s> <sil> [NOISE] [SPEECH]. Another way to say a word has a number: read(2).
    return [(re.sub(r"\(\d+\)$", "", word), frame) for word, frame in heard if not word.startswith(("<", "["))]


def _described(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def _read(descriptor: int) -> tuple[int, bytes] | None:
    """Return the next message; `None` when there are no more."""
    header = _read_all(descriptor, HEADER.size)
    if len(header) < HEADER.size:
        return None
    number, size = HEADER.unpack(header)
    body = _read_all(descriptor, size)
    return (number, body) if len(body) == size else None


def _read_all(descriptor: int, size: int) -> bytes:
    received = bytearray()
    while len(received) < size and (part := os.read(descriptor, min(size - len(received), CHUNK_BYTES))):
        received += part
    return bytes(received)


def _write(descriptor: int, number: int, answer: dict[str, Any]) -> None:
    body = json.dumps(answer).encode()
    _write_all(descriptor, HEADER.pack(number, len(body)) + body)


def _write_all(descriptor: int, message: bytes) -> None:
    rest = memoryview(message)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def main() -> None:
    """Serve on the standard streams, with stdout kept clear of what a library may print."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # A service's processes get them all at once; the server still wants its answer, and ends this one itself.
        signal.signal(number, signal.SIG_IGN)
    stdout = os.dup(1)
    os.dup2(2, 1)
    with contextlib.suppress(BrokenPipeError):
        serve(0, stdout)


if __name__ == "__main__":
    main()
