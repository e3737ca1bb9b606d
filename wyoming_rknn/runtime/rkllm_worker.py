"""The child process in which librkllmrt works: `python -m wyoming_rknn.runtime.rkllm_worker`.

A fault of the library, whose crashes end the process that it is in, thus costs one utterance; and what it took of the
NPU's memory is given back. The only argument is JSON, an `Options`. One thread listens to the server while another one
is within the library, so that a run can be given up, and this process ends with the server even if the library hangs.

To the child goes a `REQUEST`: its kind, the number of the run, rows, columns and the most tokens to generate; to RUN
the rows follow as float32. From the child comes a `REPLY`: its kind, the number of the run and a value, a token's id or
the length of the words that follow.
"""

import ctypes
import json
import os
import signal
import struct
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wyoming_rknn.errors import AcceleratorError, RuntimeUnavailable, SpeechServerError
from wyoming_rknn.runtime.rkllm_model import RkllmModel

REQUEST = struct.Struct("<IIIIi")
RUN, ABORT = 1, 2
REPLY = struct.Struct("<IIi")
READY, TOKEN, DONE, FAILED = 1, 2, 3, 4
"""The model is loaded; a token; a run is over; words that say why a run, or loading, failed."""
_PR_SET_PDEATHSIG = 1
_EXIT_S = 1.5
"""How long the library may take to free the model."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a child is told when it is started."""

    library: str
    version: str
    model: str
    context_tokens: int
    """Rows that are read and tokens that are generated, at most, together."""
    stop_ids: tuple[int, ...]
    """Tokens that end a run and are not told."""
    cpus: tuple[int, ...]
    """CPU cores on which the library computes what the NPU cannot."""
    parent: int
    """The server's process."""

    def dumps(self) -> str:
        """Return the argument."""
        return json.dumps(asdict(self))

    @classmethod
    def loads(cls, text: str) -> "Options":
        """Read the argument."""
        values: dict[str, Any] = json.loads(text)
        values |= {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
        return cls(**values)


class Worker:
    """The library's model, and the pipes."""

    def __init__(self, options: Options, reading: int, writing: int) -> None:
        self._options = options
        self._reading, self._writing = reading, writing
        self._changed = threading.Condition()
        self._model: RkllmModel | None = None
        self._waiting: tuple[int, int, int] | None = None
        """Number, rows and most tokens of the run that comes next."""
        self._running = 0
        self._aborted = False
        self._rows = bytearray()
        self._closing = False
        self._computing = threading.Thread(target=self._compute, daemon=True)

    def serve(self) -> None:
        """Load the model and answer until the server closes the pipe, or ends."""
        self._computing.start()
        header = bytearray(REQUEST.size)
        while self._read(memoryview(header)):
            kind, number, rows, columns, max_tokens = REQUEST.unpack(header)
            if kind == ABORT:
                self._abort(number)
                continue
            size = rows * columns * 4
            if len(self._rows) < size:
                self._rows = bytearray(size)
            if not self._read(memoryview(self._rows)[:size]):
                break
            with self._changed:
                self._waiting = (number, rows, max_tokens)
                self._changed.notify()
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._abort(self._running)
        self._computing.join(_EXIT_S)

    def _read(self, into: memoryview) -> bool:
        while into:
            count = os.readv(self._reading, [into])
            if not count:
                return False
            into = into[count:]
        return True

    def _abort(self, number: int) -> None:
        with self._changed:
            if self._waiting is not None and self._waiting[0] == number:
                self._aborted = True
            elif number and self._running == number and not self._aborted and self._model is not None:
                self._aborted = True
                self._model.abort()

    def _compute(self) -> None:
        try:
            options = self._options
            library = Path(options.library)
            self._model = RkllmModel(
                library, options.version, Path(options.model), options.context_tokens, options.cpus
            )
        except (AcceleratorError, RuntimeUnavailable) as error:
            self._tell(FAILED, 0, str(error))
            os._exit(1)
        self._tell(READY, 0)
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._waiting is not None)
                if self._closing or self._waiting is None:
                    break
                (number, rows, max_tokens), self._waiting = self._waiting, None
                self._running = number
            try:
                self._run(self._model, number, rows, max_tokens)
            except SpeechServerError as error:
                self._tell(FAILED, number, str(error))
        self._model.close()

    def _run(self, model: RkllmModel, number: int, rows: int, max_tokens: int) -> None:
        left = max_tokens
        is_over = False

        def hear(token: int) -> bool:
            """Tell a token; returns whether to go on."""
            nonlocal left, is_over
            # A library that does not stop at a token that ends, or when it is told to, is told to at the next one.
            if is_over or self._aborted:
                return False
            if token in self._options.stop_ids:
                is_over = True
                return True
            self._tell(TOKEN, number, token)
            left -= 1
            is_over = left <= 0
            return not is_over or model.counts_tokens

        try:
            if not self._aborted:
                rows_at = ctypes.addressof(ctypes.c_char.from_buffer(self._rows))
                model.run(rows_at, rows, max_tokens, hear, lambda: is_over or self._aborted)
        finally:
            with self._changed:
                self._running = 0
                self._aborted = False
        self._tell(DONE, number)

    def _tell(self, kind: int, number: int, value: int | str = 0) -> None:
        if isinstance(value, str):
            words = value.encode()
            message = REPLY.pack(kind, number, len(words)) + words
        else:
            message = REPLY.pack(kind, number, value)
        try:
            while message:
                message = message[os.write(self._writing, message) :]
        except BrokenPipeError:
            os._exit(0)


def main() -> None:
    """Be the child process."""
    options = Options.loads(sys.argv[1])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    # It may have ended before the signal was asked for.
    if os.getppid() != options.parent:
        return
    writing = os.dup(sys.stdout.fileno())
    # What the library prints must not get between the replies.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    Worker(options, sys.stdin.fileno(), writing).serve()
    # Whatever the library still does, or the threads that it left behind.
    os._exit(0)


if __name__ == "__main__":
    main()
