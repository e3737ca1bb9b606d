"""What errors of the disk mean for a download."""

import errno
import os
from pathlib import Path

from wyoming_rknn.errors import DiskFull, DownloadError, FolderNotWritable


def of_disk(error: OSError, folder: Path) -> DownloadError:
    """Return what to tell about an error that the file system raised for something in `folder`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"the disk of {folder} is full; free some space and try again: what is there is continued")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return FolderNotWritable(f"{folder} must not be used; check its owner and permissions or use --data-dir")
    reason = os.strerror(error.errno) if error.errno else str(error)
    return DownloadError(f"{folder} cannot be used for models: {reason}; choose another folder with --data-dir")
