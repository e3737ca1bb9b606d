"""What tells that a file is not the one it was."""

from pathlib import Path


def size_and_time(path: Path) -> tuple[int, int]:
    """Return a file's size in bytes and its time of change in nanoseconds; (-1, -1) for one that is not there."""
    try:
        status = path.stat()
    except OSError:
        return (-1, -1)
    return (status.st_size, status.st_mtime_ns)
