"""How tests download, and what a download leaves."""

from pathlib import Path

from serving_files import FileServer

from wyoming_rknn.models.download import DownloadOptions


def options(server: FileServer | None = None, **changes: object) -> DownloadOptions:
    """Return options that wait for nothing long; without a server nobody answers."""
    endpoint = server.url if server else "http://127.0.0.1:9"
    return DownloadOptions(**{"endpoint": endpoint, "backoff_s": 0.01, "timeout_s": 5.0, **changes})  # type: ignore[arg-type]


def workspace(folder: Path) -> Path:
    """Return where the files of a download are before all are whole."""
    return folder.with_name(f".{folder.name}.download")


def leave_part(folder: Path, name: str, content: bytes) -> Path:
    """Leave what an interrupted download leaves."""
    part = workspace(folder) / f"{name}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(content)
    return part
