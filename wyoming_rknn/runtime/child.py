"""A child process that runs a module of this package, and the thread that looks after it."""

import contextlib
import io
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import wyoming_rknn

_LOGGER = logging.getLogger(__name__)

_CHUNK_BYTES = 1 << 16
_LEAVE_S = 1.0
"""How long a process may take to be gone after its pipe was closed, or after it was killed."""


class Child:
    """A process to which bytes are written and from which bytes come.

    A thread of its own starts it, hears what it says, and takes leave of it; so the child, which wants to die with the
    thread that started it (PR_SET_PDEATHSIG goes by threads), outlives whoever asked for it. `received` is called in
    that thread with what the child wrote to its standard output, and `ended` once, last, with what there is to say of
    its end, as the rest of a sentence. Thread-safe, but for `write`. The constructor raises `OSError` where there is no
    room for a process.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        received: Callable[[bytes], None],
        ended: Callable[[str], None],
    ) -> None:
        self._command = [sys.executable, "-P", "-m", module, *arguments]
        self._received, self._ended = received, ended
        self._guard = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stdin = -1
        self._failures: list[OSError] = []
        self._started = threading.Event()
        # Daemon: a child that a driver does not let go of must not keep the process alive.
        self._keeper = threading.Thread(target=self._keep, name=module.rpartition(".")[2], daemon=True)
        self._keeper.start()
        self._started.wait()
        if self._failures:
            self._keeper.join()
            raise self._failures[0]

    @property
    def is_alive(self) -> bool:
        """Tell whether the process still runs."""
        with self._guard:
            return self._process is not None and self._process.poll() is None

    def write(self, parts: Sequence[bytes | memoryview], timeout_s: float) -> bool:
        """Write all parts; tells whether the child took them in time."""
        end = time.monotonic() + timeout_s
        stdin = self._stdin
        if stdin < 0:
            return False
        poll = select.poll()
        poll.register(stdin, select.POLLOUT)
        for part in parts:
            rest = memoryview(part).cast("B")
            while rest:
                if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
                    return False
                try:
                    rest = rest[os.write(stdin, rest) :]
                except BrokenPipeError:
                    return False
        return True

    def kill(self) -> None:
        """End the process at once."""
        with self._guard:
            if self._process is not None:
                self._process.kill()

    def close(self, timeout_s: float = 0.0) -> None:
        """End the process, which has `timeout_s` to do so by itself once its standard input has ended; frees all.

        Nobody may write any more.
        """
        with self._guard:
            stdin, self._stdin = self._stdin, -1
        if stdin >= 0:
            os.close(stdin)
        self._keeper.join(timeout_s)
        self.kill()
        self._keeper.join(_LEAVE_S)

    def _keep(self) -> None:
        try:
            reading = self._start()
        except OSError as error:
            self._failures.append(error)
            return
        finally:
            self._started.set()
        with contextlib.closing(reading):
            while received := os.read(reading.fileno(), _CHUNK_BYTES):
                self._received(received)
        process = self._process
        assert process is not None
        # One that closed its pipe is of no use any more; the guard keeps `kill` from hitting another process's number.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_LEAVE_S)
        self.kill()
        code = process.wait()
        with self._guard:
            self._process = None
        self._ended(ending(code))

    def _start(self) -> io.FileIO:
        """Start the process and return where to read what it writes."""
        paths = [str(Path(wyoming_rknn.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        theirs_in, ours_in = os.pipe()
        ours_out, theirs_out = os.pipe()
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=theirs_in,
                stdout=theirs_out,
                # What a native library prints is of use to nobody but those who look for a fault.
                stderr=None if _LOGGER.isEnabledFor(logging.DEBUG) else subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                start_new_session=True,
            )
        except OSError:
            os.close(ours_in)
            os.close(ours_out)
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        os.set_blocking(ours_in, False)
        self._stdin = ours_in
        return io.FileIO(ours_out)


def ending(code: int) -> str:
    """Say how a process ended, as the rest of a sentence about it."""
    if code < 0:
        memory = ", perhaps for want of memory" if code == -signal.SIGKILL else ""
        return f"was ended by signal {-code}{memory}"
    return f"ended with exit code {code}"
