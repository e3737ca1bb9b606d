"""A server of files on 127.0.0.1, shaped like a hub, with all the manners that servers and networks have."""

import hashlib
import json
import random
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit


@dataclass(frozen=True)
class RemoteSource:
    repo: str | None = None
    revision: str | None = None
    path: str | None = None
    url: str | None = None


@dataclass(frozen=True)
class RemoteFile:
    name: str
    source: RemoteSource
    bytes: int | None = None
    sha256: str | None = None
    md5: str | None = None
    unpack: tuple[str, ...] = ()


@dataclass(frozen=True)
class RemoteModel:
    name: str
    files: Sequence[RemoteFile]

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "RemoteModel":
        fields = json.loads(text)
        files = [
            RemoteFile(**{**file, "source": RemoteSource(**file["source"]), "unpack": tuple(file["unpack"])})
            for file in fields["files"]
        ]
        return cls(fields["name"], files)


@dataclass
class Served:
    """What stands at one path, and how it is served."""

    content: bytes = b""
    ranges: bool = True
    tag: str = ""
    status: int = 0
    """Answer with this error instead."""
    error_code: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    failures: int = 0
    """Answer the first requests with 500."""
    drops: int = 0
    """Drop the connection in the first answers..."""
    drop_after: int = 0
    """...after so many bytes of their bodies."""
    silent: bool = False
    """Send half and then nothing more."""
    chunked: bool = False
    no_length: bool = False
    pause_s: float = 0.0
    """Between pieces of `piece` bytes."""
    piece: int = 1 << 16
    gated: bool = False
    redirect: str = ""


@dataclass(frozen=True)
class Asked:
    path: str
    range: str
    authorization: str
    if_range: str
    agent: str


class FileServer:
    """Serves until its block ends."""

    def __init__(self, key: Path | None = None, certificate: Path | None = None) -> None:
        self.served: dict[str, Served] = {}
        self.asked: list[Asked] = []
        self.sent = 0
        """Bytes of all bodies."""
        self.most_at_once = 0
        self.before: Callable[[Asked], None] | None = None
        self.ended = threading.Event()
        self._busy = 0
        self.lock = threading.Lock()
        outer = self

        class Handler(_Handler):
            server_of_files = outer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.url = self.url.replace("http:", "https:")
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> "FileServer":
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def plain(self, name: str, content: bytes, **manner: object) -> RemoteFile:
        """Serve a file at an address of its own; all facts of it are known."""
        self.served[f"/files/{name}"] = Served(content, **manner)  # type: ignore[arg-type]
        return remote(name, content, RemoteSource(url=f"{self.url}/files/{name}"))

    def hub(self, name: str, content: bytes, *, repo: str = "someone/voices", revision: str = "main", **manner: object):
        """Serve a file of a repository: a redirect that tells its size and hash, and the file in a storage."""
        sha256 = hashlib.sha256(content).hexdigest()
        gated = bool(manner.pop("gated", False))
        self.served[f"/storage/{sha256}"] = Served(content, **manner)  # type: ignore[arg-type]
        self.served[f"/{repo}/resolve/{revision}/dir/{name}"] = Served(
            redirect=f"{self.url.replace('127.0.0.1', 'localhost')}/storage/{sha256}",
            headers={"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(content)), "X-Repo-Commit": "0" * 40},
            gated=gated,
        )
        return remote(name, content, RemoteSource(repo, revision, f"dir/{name}"))

    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]

    def enter(self, asked: Asked) -> None:
        with self.lock:
            self.asked.append(asked)
            self._busy += 1
            self.most_at_once = max(self.most_at_once, self._busy)
        if self.before is not None:
            self.before(asked)

    def leave(self) -> None:
        with self.lock:
            self._busy -= 1


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


def model_of(*files: RemoteFile) -> RemoteModel:
    return RemoteModel("amy", files)


def unknown(file: RemoteFile) -> RemoteFile:
    """Forget what is known of a file."""
    return replace(file, bytes=None, sha256=None, md5=None)


def listing(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def remote(name: str, content: bytes, source: RemoteSource) -> RemoteFile:
    return RemoteFile(name, source, len(content), hashlib.sha256(content).hexdigest(), hashlib.md5(content).hexdigest())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of_files: FileServer

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, ssl.SSLError):
            return

    def log_message(self, format: str, *args: object) -> None:
        return

    def do_GET(self) -> None:
        asked = Asked(
            unquote(urlsplit(self.path).path),
            *(self.headers.get(name, "") for name in ("Range", "Authorization", "If-Range", "User-Agent")),
        )
        self.close_connection = True
        self.server_of_files.enter(asked)
        try:
            self._answer(asked)
        except (BrokenPipeError, ConnectionResetError):
            return
        finally:
            self.server_of_files.leave()

    do_HEAD = do_GET

    def _answer(self, asked: Asked) -> None:
        served = self.server_of_files.served.get(asked.path)
        if served is None:
            self._refuse(404, "EntryNotFound")
        elif served.failures > 0:
            served.failures -= 1
            self._refuse(500, "", served.headers)
        elif served.status:
            self._refuse(served.status, served.error_code, served.headers)
        elif served.gated and not asked.authorization:
            self._refuse(401, "GatedRepo")
        elif served.redirect:
            self._head(302, {"Location": served.redirect, "Content-Length": "0", **served.headers})
        else:
            self._send(served, asked)

    def _refuse(self, status: int, error_code: str, headers: dict[str, str] | None = None) -> None:
        code = {"X-Error-Code": error_code} if error_code else {}
        self._head(status, {"Content-Length": "0", **code, **(headers or {})})

    def _head(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()

    def _send(self, served: Served, asked: Asked) -> None:
        start = int(asked.range.removeprefix("bytes=").rstrip("-")) if asked.range else 0
        if not served.ranges or (asked.if_range and asked.if_range != served.tag):
            start = 0
        if start >= len(served.content) and start:
            self._refuse(416, "")
            return
        headers = {"ETag": served.tag} if served.tag else {}
        body = served.content[start:]
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(served.content) - 1}/{len(served.content)}"
        if served.chunked:
            headers["Transfer-Encoding"] = "chunked"
        elif not served.no_length:
            headers["Content-Length"] = str(len(body))
        self._head(206 if start else 200, headers | served.headers)
        if self.command == "HEAD":
            return
        limit = len(body)
        if served.drops > 0:
            served.drops -= 1
            limit = min(limit, served.drop_after)
        if served.silent:
            limit //= 2
        for place in range(0, limit, served.piece):
            piece = body[place : min(limit, place + served.piece)]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if served.chunked else piece)
            self.wfile.flush()
            with self.server_of_files.lock:
                self.server_of_files.sent += len(piece)
            if served.pause_s:
                time.sleep(served.pause_s)
        if served.silent:
            self.server_of_files.ended.wait(30)
        elif served.chunked and limit == len(body):
            self.wfile.write(b"0\r\n\r\n")
