"""One file: its part, going on where it ended, trying again, and the check before it counts."""

import logging
import os
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path

from wyoming_rknn.errors import Cancelled, DiskFull, DownloadError, HashMismatch, NetworkUnavailable
from wyoming_rknn.models.fetching.failures import of_disk
from wyoming_rknn.models.fetching.http import Address, Client, PassingFailure, RangeRefused, Reply
from wyoming_rknn.models.fetching.wanted import Facts, FetchedFile, WantedFile, inspect

PART_SUFFIX = ".part"
_CHUNK_BYTES = 1 << 18
_SPARE_BYTES = 8_000_000
"""What is left free for everyone else."""
_LONGEST_BACKOFF_S = 30.0
_LONGEST_RETRY_AFTER_S = 60.0
_UNREACHABLE_ATTEMPTS = 2
"""Without a network, more would only let the user wait for the same message."""

_LOGGER = logging.getLogger(__name__)


@dataclass(slots=True)
class Tally:
    """How far each file is. Each is written by one thread; sums may lag by a chunk."""

    done: dict[str, int] = field(default_factory=dict)
    total: dict[str, int | None] = field(default_factory=dict)

    def sums(self) -> tuple[int, int | None]:
        """Return the bytes that are there and those of all files, None if a size is not known."""
        sizes = [size for size in self.total.values() if size is not None]
        return sum(self.done.values()), sum(sizes) if len(sizes) == len(self.total) else None


@dataclass(frozen=True, slots=True)
class Retries:
    """How often and when to try again."""

    attempts: int
    """Failures in a row, with nothing new received, after which it is given up."""
    backoff_s: float
    """Pause after the first failure; doubles with each."""


class Transfer:
    """Fetches one file into a folder where nothing is looked for."""

    def __init__(
        self, file: WantedFile, target: Path, address: Address, client: Client, retries: Retries, tally: Tally,
        stop: threading.Event,
    ) -> None:  # fmt: skip
        """Prepare to write `target`; until it is whole, its bytes are in a `.part` beside it."""
        self._file = file
        self._target = target
        self._part = part_of(target)
        self._address = address
        self._client = client
        self._retries = retries
        self._tally = tally
        self._stop = stop
        self._facts = Facts.of(file)
        self._validator = ""
        self._in_one_go = False
        """Whether the part's bytes all came through one connection of this run."""
        self._complete = False

    def run(self) -> FetchedFile:
        """Fetch. Raises `DownloadError`, or `Cancelled` when `stop` is set; then the part is left to be continued."""
        try:
            self._target.parent.mkdir(parents=True, exist_ok=True)
            # What was pieced together may hold bytes of two versions, or a crash may have lost some: once more, then.
            found, problem = self._attempt()
            if found is None and not self._in_one_go:
                _LOGGER.warning("%s %s; it is fetched anew", self._file.name, problem)
                found, problem = self._attempt()
            if found is None:
                raise self._mismatch(problem)
            return found
        except OSError as error:
            raise of_disk(error, self._target.parent) from None

    def _attempt(self) -> tuple[FetchedFile | None, str]:
        """Return the whole file, or what was wrong with the one that came, which is gone then."""
        self._receive()
        problem, found = inspect(self._part, self._facts)
        if found is None:
            self._part.unlink()
            self._count(0)
            return None, problem
        self._part.replace(self._target)
        return replace(found, name=self._file.name), ""

    def _receive(self) -> None:
        """Let the part grow until it is complete."""
        failures, furthest = 0, 0
        self._complete = False
        while not self._complete:
            try:
                self._connect()
            except PassingFailure as failure:
                self._check_stop()
                reached = self._part_bytes()
                # A server that knows no ranges and drops at the same place each time makes no progress.
                failures = 1 if reached > furthest else failures + 1
                furthest = max(furthest, reached)
                limit = self._retries.attempts
                if failures >= (min(limit, _UNREACHABLE_ATTEMPTS) if failure.unreachable else limit):
                    raise self._given_up(failure) from None
                delay_s = min(_LONGEST_BACKOFF_S, self._retries.backoff_s * 2 ** (failures - 1))
                delay_s = max(delay_s, min(failure.wait_s, _LONGEST_RETRY_AFTER_S))
                _LOGGER.debug("%s: %s; again in %.1f s", self._file.name, failure, delay_s)
                self._stop.wait(delay_s)
            self._check_stop()

    def _connect(self) -> None:
        """Receive what one connection gives."""
        start = self._part_bytes()
        wanted = self._facts.bytes
        if wanted is not None and start > wanted:
            start = 0
        if start and start == wanted and self._facts.has_hash:
            self._complete = True
            return
        try:
            # A hash is the better judge: the places that a hub redirects to may each tag a file in their own way.
            validator = "" if self._facts.has_hash else self._validator
            with self._client.open(self._address, start, validator) as reply:
                self._check_stop()
                self._learn(reply)
                if start and reply.start == start and not self._facts.has_hash and not self._validator:
                    # Nothing could tell whether the old bytes belong to the new ones.
                    self._part.unlink()
                    return
                if reply.start not in (0, start):
                    raise PassingFailure("it sent another part than was asked for")
                self._validator = reply.validator
                self._write(reply)
        except RangeRefused:
            self._part.unlink(missing_ok=True)
            self._validator = ""
            if not start:
                raise PassingFailure("it refuses the whole file") from None

    def _learn(self, reply: Reply) -> None:
        """Take over what the server says about the file where the catalogue is silent."""
        if not self._facts.has_hash and reply.sha256:
            self._facts = replace(self._facts, sha256=reply.sha256)
        wanted = self._facts.bytes
        if wanted is not None and reply.total is not None and reply.total != wanted:
            self._part.unlink(missing_ok=True)
            raise self._mismatch(f"has {reply.total} bytes instead of {wanted}")
        if wanted is None and reply.total is not None:
            check_space(self._part.parent, reply.total - self._part_bytes(), self._file.name)
        self._tally.total[self._file.name] = reply.total if wanted is None else wanted

    def _write(self, reply: Reply) -> None:
        total = self._facts.bytes if self._facts.bytes is not None else reply.total
        if total is None and not reply.delimited and not self._facts.has_hash:
            raise DownloadError(
                f"{self._address.host} does not say how long {self._file.name} is, so that nobody can tell whether it "
                "is whole; use another mirror"
            )
        self._in_one_go = reply.start == 0
        with self._part.open("ab" if reply.start else "wb", buffering=0) as part:
            size = reply.start
            self._count(size)
            while chunk := reply.read(_CHUNK_BYTES):
                self._check_stop()
                _write_all(part.fileno(), chunk)
                size += len(chunk)
                self._count(size)
                if total is not None and size > total:
                    break
            if total is not None and size < total:
                raise PassingFailure("the connection was lost")
            os.fsync(part.fileno())
        if self._facts.bytes is None and total:
            self._facts = replace(self._facts, bytes=total)
        self._complete = True

    def _count(self, size: int) -> None:
        self._tally.done[self._file.name] = size

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Cancelled

    def _part_bytes(self) -> int:
        return size_of(self._part)

    def _mismatch(self, problem: str) -> HashMismatch:
        return HashMismatch(
            f"{self._file.name} from {self._address.host} {problem}; try `wyoming-rknn models update`, or another "
            "mirror with --model-url"
        )

    def _given_up(self, failure: PassingFailure) -> NetworkUnavailable:
        if failure.unreachable:
            fix = "check the network, or name a mirror with --model-url or HF_ENDPOINT"
            return NetworkUnavailable(f"{self._address.host} cannot be reached: {failure}; {fix}")
        return NetworkUnavailable(
            f"{self._address.host} failed {self._retries.attempts} times in a row: {failure}; try again later, what is "
            "there is continued"
        )


def part_of(target: Path) -> Path:
    """Return where the bytes of a file are until it is whole."""
    return target.with_name(target.name + PART_SUFFIX)


def check_space(folder: Path, needed: int, what: str) -> None:
    """Raise `DiskFull` if so many bytes would leave next to nothing of the disk. Raises `OSError`."""
    status = os.statvfs(folder)
    free = status.f_bavail * status.f_frsize
    if needed > 0 and needed + _SPARE_BYTES > free:
        raise DiskFull(
            f"{what} needs {needed / 1e6:.1f} MB more and its disk has {free / 1e6:.1f} MB free; free some space or "
            "use a folder elsewhere with --data-dir"
        )


def size_of(path: Path) -> int:
    """Return a file's size; 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
