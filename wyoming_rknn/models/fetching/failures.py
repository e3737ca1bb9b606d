"""What can go wrong with a download; `DownloadError` is the root."""

import errno
import os
from pathlib import Path

from wyoming_rknn.errors import SpeechServerError


class DownloadError(SpeechServerError):
    """A model could not be downloaded; what came of it so far is kept and continued the next time."""

    code = "download-failed"


class NetworkUnavailable(DownloadError):
    """The server cannot be reached, or failed again and again."""

    code = "network-unavailable"


class RemoteFileMissing(DownloadError):
    """The server does not have the file."""

    code = "remote-file-missing"


class ModelGated(DownloadError):
    """The server gives the file only to those who accepted a licence or have access."""

    code = "model-gated"


class HashMismatch(DownloadError):
    """What the server sent is not the file that was asked for."""

    code = "hash-mismatch"


class DiskFull(DownloadError):
    """The disk has no room."""

    code = "disk-full"


class FolderNotWritable(DownloadError):
    """The folder for models must not be written to."""

    code = "folder-not-writable"


def of_disk(error: OSError, folder: Path) -> DownloadError:
    """Return what to tell about an error that the file system raised for something in `folder`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"the disk of {folder} is full; free some space and try again: what is there is continued")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return FolderNotWritable(f"{folder} must not be used; check its owner and permissions or use --data-dir")
    reason = os.strerror(error.errno) if error.errno else str(error)
    return DownloadError(f"{folder} cannot be used for models: {reason}; choose another folder with --data-dir")
