"""A lock among processes and threads."""

import errno
import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wyoming_rknn.errors import Cancelled

_POLL_S = 0.2

_LOGGER = logging.getLogger(__name__)


@contextmanager
def locked(path: Path, stop: threading.Event, waiting_for: str) -> Iterator[None]:
    """Hold the file `path` alone while the block runs; it is gone afterwards. Waits for whoever has it.

    A file system without locks is worked on without. Raises `Cancelled` when `stop` is set, `OSError`.
    """
    descriptor = _acquire(path, stop, waiting_for)
    try:
        yield
    finally:
        # Still held, so that nobody can take a file that is about to go.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(path: Path, stop: threading.Event, waiting_for: str) -> int:
    told = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if _try_lock(descriptor) and _is_still(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if not told:
            told = True
            _LOGGER.info("waiting for another process that fetches %s", waiting_for)
        if stop.wait(_POLL_S):
            raise Cancelled


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        _LOGGER.debug("no locks here: %s", error)
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    """Tell whether the name stands for this file: its last holder removes it."""
    mine = os.fstat(descriptor)
    try:
        theirs = path.stat()
    except FileNotFoundError:
        return False
    return (mine.st_dev, mine.st_ino) == (theirs.st_dev, theirs.st_ino)
