"""The server's end of the pipe to the child process in which pocketsphinx works."""

import contextlib
import json
import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import wyoming_rknn
from wyoming_rknn.asr.pocketsphinx_worker import CHUNK_BYTES, HEADER
from wyoming_rknn.errors import Cancelled, EngineError, ModelError
from wyoming_rknn.runtime.child import ending
from wyoming_rknn.runtime.graph import Cancellation

_LOGGER = logging.getLogger(__name__)

_CHILD = "wyoming_rknn.asr.pocketsphinx_worker"
_LOADING_LIMIT_S = 120.0
_LIMIT_S = 30.0
_LIMIT_PER_S = 30.0
"""A second of audio takes a slow board some seconds, and others compute there too."""
_TICK_S = 0.02
_FRAME_S = 0.01
_BYTES_PER_S = 32_000


@dataclass(frozen=True, slots=True)
class Word:
    """A word that was heard, and when in the audio that was sent."""

    text: str
    begin_s: float


class Recognizer:
    """The child process, started when it is needed. Thread-safe; utterances are decoded one after the other."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        # For what `close` must get at while someone has the turn.
        self._guard = threading.Lock()
        self._child: _Child | None = None
        self._closed = False

    def start(self) -> None:
        """Start the child process unless it runs. Blocks until the model is loaded.

        Raises `ModelError`, and `EngineError` when there is no room for a process.
        """
        with self._guard:
            if self._child is not None and self._child.is_ready:
                return
        with self._turn:
            try:
                self._running(None)
            except (_Failure, TimeoutError) as failure:
                self._check()
                raise ModelError(f"pocketsphinx {failure} while it loaded its model; install it again") from None

    def recognize(self, pcm: bytes, cancellation: Cancellation) -> list[Word]:
        """Return the words in int16 audio, mono at 16 kHz. Blocks.

        What fails is tried once more, by a new child process if need be. Raises `ModelError`, `EngineError`, and at a
        cancellation `Cancelled` without waiting for the child.
        """
        with self._my_turn(cancellation):
            try:
                return self._recognize(pcm, cancellation)
            except _Failure as failure:
                _LOGGER.warning("pocketsphinx %s; it tries once more", failure)
            try:
                return self._recognize(pcm, cancellation)
            except _Failure as failure:
                raise EngineError(f"pocketsphinx {failure}, twice; install a speech-to-text model instead") from None

    def close(self) -> None:
        """End the child process; whoever waits for it gets an `EngineError`."""
        with self._guard:
            self._closed = True
            if self._child is not None:
                self._child.kill()
        with self._turn:
            self._drop()

    def _recognize(self, pcm: bytes, cancellation: Cancellation) -> list[Word]:
        try:
            return self._running(cancellation).recognize(pcm, cancellation)
        except TimeoutError as error:
            self._drop()
            raise EngineError(f"pocketsphinx {error}; the next utterance has a new process") from None
        except _Failure:
            self._check()
            raise

    def _running(self, cancellation: Cancellation | None) -> "_Child":
        with self._guard:
            self._check()
            if self._child is not None and not self._child.is_alive:
                self._child.close()
                self._child = None
            if self._child is None:
                self._child = _Child()
            child = self._child
        try:
            child.load(cancellation)
        except (ModelError, TimeoutError, _Failure):
            self._drop()
            raise
        return child

    def _check(self) -> None:
        if self._closed:
            raise EngineError("pocketsphinx was stopped; the request came too late")

    def _drop(self) -> None:
        with self._guard:
            child, self._child = self._child, None
        if child is not None:
            child.close()

    @contextlib.contextmanager
    def _my_turn(self, cancellation: Cancellation) -> Iterator[None]:
        while not self._turn.acquire(timeout=_TICK_S):
            if cancellation.cancelled:
                raise Cancelled
        try:
            yield
        finally:
            self._turn.release()


class _Failure(Exception):
    """What befell the child process, as the rest of a sentence about pocketsphinx."""


class _Child:
    """One child process. One call at a time, but for `kill`. What takes too long raises `TimeoutError`."""

    def __init__(self) -> None:
        paths = [str(Path(wyoming_rknn.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
        # It names another model than the bundled one.
        environment.pop("POCKETSPHINX_PATH", None)
        try:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", _CHILD],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise EngineError(f"pocketsphinx cannot be started ({error.strerror}); free some memory") from error
        assert process.stdin is not None
        assert process.stdout is not None
        self._process, self._stdin, self._stdout = process, process.stdin, process.stdout
        os.set_blocking(self._stdin.fileno(), False)
        self._received = bytearray()
        self._number = 0
        self._loaded = False
        self._loading_ends = time.monotonic() + _LOADING_LIMIT_S

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def is_ready(self) -> bool:
        return self._loaded and self.is_alive

    def load(self, cancellation: Cancellation | None) -> None:
        """Wait until the model is loaded; goes on where a cancelled call stopped."""
        if self._loaded:
            return
        answer = self._answer(self._loading_ends, cancellation)
        if "error" in answer:
            raise ModelError(f"pocketsphinx cannot load its model ({answer['error']}); install it again")
        self._loaded = True

    def recognize(self, pcm: bytes, cancellation: Cancellation) -> list[Word]:
        deadline = time.monotonic() + _LIMIT_S + _LIMIT_PER_S * len(pcm) / _BYTES_PER_S
        # The number tells the answer from a late one to what was given up.
        self._number += 1
        try:
            self._send(HEADER.pack(self._number, len(pcm)), deadline, cancellation)
            self._send(pcm, deadline, cancellation)
        except Cancelled:
            # No other message can follow half a one.
            self._end()
            raise
        try:
            answer = self._answer(deadline, cancellation)
        except Cancelled:
            with contextlib.suppress(_Failure, TimeoutError):
                self._send(HEADER.pack(self._number, 0), deadline, None)
            raise
        if "error" in answer:
            raise _Failure(answer["error"])
        return [Word(text, frame * _FRAME_S) for text, frame in answer["words"]]

    def kill(self) -> None:
        """End the process, from any thread."""
        self._process.kill()

    def close(self) -> None:
        """End the process and free what it held."""
        self._end()
        self._stdin.close()
        self._stdout.close()

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()

    def _send(self, message: bytes, deadline: float, cancellation: Cancellation | None) -> None:
        rest = memoryview(message)
        while rest:
            self._wait(self._stdin.fileno(), select.POLLOUT, deadline, cancellation)
            try:
                rest = rest[os.write(self._stdin.fileno(), rest) :]
            except BrokenPipeError:
                raise _Failure(self._ending()) from None

    def _answer(self, deadline: float, cancellation: Cancellation | None) -> dict[str, Any]:
        while (body := self._next_body()) is None:
            self._wait(self._stdout.fileno(), select.POLLIN, deadline, cancellation)
            received = os.read(self._stdout.fileno(), CHUNK_BYTES)
            if not received:
                raise _Failure(self._ending())
            self._received += received
        answer: dict[str, Any] = json.loads(body)
        return answer

    def _next_body(self) -> bytes | None:
        """Take the answer with the right number out of what was received, and those before it."""
        while len(self._received) >= HEADER.size:
            number, size = HEADER.unpack_from(self._received)
            end = HEADER.size + size
            if len(self._received) < end:
                break
            body = bytes(self._received[HEADER.size : end])
            del self._received[:end]
            if number == self._number:
                return body
        return None

    def _wait(self, descriptor: int, event: int, deadline: float, cancellation: Cancellation | None) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        while not poll.poll(_TICK_S * 1000):
            if cancellation is not None and cancellation.cancelled:
                raise Cancelled
            if time.monotonic() > deadline:
                raise TimeoutError("gave no answer in time")

    def _ending(self) -> str:
        try:
            return ending(self._process.wait(1.0))
        except subprocess.TimeoutExpired:
            self._end()
            return "gave no answer and closed its pipe"
