"""Files by HTTP: redirects, ranges, tokens, proxies, and what a server's refusal means.

`urllib` heeds HTTP_PROXY, HTTPS_PROXY and NO_PROXY. A hub is anything that answers
`ENDPOINT/REPO/resolve/REVISION/PATH` as Hugging Face does: with the file or a redirect to it, the headers X-Linked-Size
and X-Linked-Etag (the SHA-256 of a large file) on the way, and X-Error-Code where it refuses.
"""

import email.message
import errno
import http.client
import re
import socket
import ssl
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from wyoming_rknn import __version__
from wyoming_rknn.errors import DownloadError, ModelGated, NetworkUnavailable, RemoteFileMissing
from wyoming_rknn.models.fetching.wanted import Source

_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})
_UNREACHABLE = frozenset({errno.ECONNREFUSED, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN})
_RANGE_NOT_SATISFIABLE = 416
_SHA256 = re.compile(r"[0-9a-f]{64}")


def shown(url: str) -> str:
    """Return an address without what may be secret: a name and password before the host, and all from "?" on.

    For messages and records; what is no address of a host is not told at all.
    """
    try:
        parts = urlsplit(url)
        # Raises for a password with a "/" in it, too: what is before that looks like a port then.
        _ = parts.port
        return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
    except ValueError:
        return "an address that cannot be read"


class PassingFailure(Exception):
    """Something that may work when it is tried again."""

    def __init__(self, reason: str, *, unreachable: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.unreachable = unreachable
        self.wait_s = wait_s


class RangeRefused(Exception):
    """The server has no bytes from there on."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a file is fetched from."""

    url: str
    token: str = field(default="", repr=False)
    page: str = ""
    """Where a person can accept the licence of a hub's repository; empty for a file that is in no hub."""

    @property
    def host(self) -> str:
        """Return the server's name, for messages."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    @property
    def shown(self) -> str:
        """Return the address for messages, without what may be secret."""
        return shown(self.url)


def address_of(source: Source, endpoint: str, token: str, hub: str) -> Address:
    """Return the address of a file; `hub` is where people see its repository. Raises `DownloadError` if it has none."""
    if source.url:
        if not source.url.startswith(("https://", "http://")):
            raise DownloadError(f"{shown(source.url)!r} is no https:// address; mend the catalogue")
        return Address(quote(source.url, safe="/:?#[]@!$&'()*+,;=%~"))
    if not source.repo or not source.path:
        raise DownloadError("a file in the catalogue has neither an address nor a repository; mend the catalogue")
    base = endpoint.rstrip("/")
    revision = quote(source.revision or "main", safe="")
    url = f"{base}/{quote(source.repo)}/resolve/{revision}/{quote(source.path)}"
    # A token is a password: it goes to no one in the clear.
    secret = urlsplit(url).scheme == "https" or urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
    return Address(url, token if secret else "", f"{hub.rstrip('/')}/{source.repo}")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer whose body is there to be read."""

    start: int
    """Place in the file of the body's first byte."""
    total: int | None
    """Size of the whole file."""
    delimited: bool
    """Whether the end of the body can be told from a lost connection."""
    sha256: str | None
    """Hash of the whole file, as the hub says."""
    validator: str
    """Strong entity tag; empty if there is none."""
    body: http.client.HTTPResponse

    def read(self, limit: int) -> bytes:
        """Return what has arrived, at most `limit` bytes; empty at the end. Raises `PassingFailure`."""
        try:
            return self.body.read1(limit)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # ValueError: the socket was closed by `Client.close`.
            raise PassingFailure(_reason(error)) from None


class Client:
    """Open files on servers. Thread-safe."""

    def __init__(self, timeout_s: float) -> None:
        """Prepare; no connection is made. `timeout_s` is how long a server may be silent."""
        self._timeout_s = timeout_s
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        self._lock = threading.Lock()
        self._closed = False
        self._opener = build_opener(_Redirects, _Http(self._opened), _Https(self._opened))

    @contextmanager
    def open(self, address: Address, start: int = 0, validator: str = "") -> Iterator[Reply]:
        """Ask for a file from byte `start` on, if it still is what the validator says; the answer may begin at 0.

        Raises `PassingFailure`, `RangeRefused`, `DownloadError`.
        """
        request = Request(address.url, headers={"User-Agent": f"wyoming-rknn/{__version__}"})
        if address.token:
            request.add_unredirected_header("Authorization", f"Bearer {address.token}")
        if start:
            request.add_header("Range", f"bytes={start}-")
            if validator:
                request.add_header("If-Range", validator)
        hints: dict[str, str] = {}
        request.hub_hints = hints  # type: ignore[attr-defined]
        try:
            response = self._opener.open(request, timeout=self._timeout_s)
        except HTTPError as error:
            with error:
                elsewhere = urlsplit(error.url).netloc != urlsplit(address.url).netloc
                raise _refusal(error.code, error.headers, address, elsewhere) from None
        except (http.client.InvalidURL, UnicodeError):
            # What it says may be the part of the address that is secret.
            raise DownloadError(f"{address.shown!r} is no usable address; mend the catalogue") from None
        except URLError as error:
            raise _unreachable(error.reason, address) from None
        except (OSError, http.client.HTTPException) as error:
            raise PassingFailure(_reason(error)) from None
        with response:
            if response.status not in (200, 206):
                raise DownloadError(f"{address.host} answered with HTTP status {response.status}; try again later")
            hints = _hints(response.headers) | hints if address.page else {}
            yield _reply(response, hints)

    def close(self) -> None:
        """End all connections at once: whoever reads from one is told that it was lost."""
        with self._lock:
            self._closed = True
            opened = list(self._sockets)
        for connection in opened:
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except (OSError, ValueError):
                continue

    def _opened(self, connection: socket.socket) -> None:
        with self._lock:
            self._sockets.add(connection)
            closed = self._closed
        if closed:
            connection.close()
            raise ConnectionAbortedError(errno.ECONNABORTED, "closed meanwhile")


class _Redirects(HTTPRedirectHandler):
    """Keep the token where it belongs, and what a hub says about the file on the way."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: http.client.HTTPMessage, newurl: str
    ) -> Request | None:
        there, here = urlsplit(newurl), urlsplit(req.full_url)
        if there.scheme not in ("https", here.scheme):
            fp.close()
            raise DownloadError(f"{here.netloc} points to {shown(newurl)!r}, which is not safe; use another mirror")
        request = super().redirect_request(req, fp, code, msg, headers, newurl)
        if request is not None:
            hints: dict[str, str] = req.hub_hints  # type: ignore[attr-defined]
            for name, value in _hints(headers).items():
                hints.setdefault(name, value)
            request.hub_hints = hints  # type: ignore[attr-defined]
            authorization = req.unredirected_hdrs.get("Authorization")
            if authorization and (there.scheme, there.netloc) == (here.scheme, here.netloc):
                request.add_unredirected_header("Authorization", authorization)
        return request


class _Connection(http.client.HTTPConnection):
    def __init__(self, *args: Any, opened: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as its parent takes them
        super().__init__(*args, **kwargs)
        self._opened = opened

    def connect(self) -> None:
        super().connect()
        self._opened(self.sock)


class _SecureConnection(http.client.HTTPSConnection):
    def __init__(self, *args: Any, opened: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as its parent takes them
        super().__init__(*args, **kwargs)
        self._opened = opened

    def connect(self) -> None:
        super().connect()
        self._opened(self.sock)


class _Http(HTTPHandler):
    def __init__(self, opened: Any) -> None:  # noqa: ANN401 - takes a socket
        super().__init__()
        self._connection = partial(_Connection, opened=opened)

    def http_open(self, req: Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req)


class _Https(HTTPSHandler):
    def __init__(self, opened: Any) -> None:  # noqa: ANN401 - takes a socket
        self._verified = ssl.create_default_context()
        super().__init__(context=self._verified)
        self._connection = partial(_SecureConnection, opened=opened)

    def https_open(self, req: Request) -> http.client.HTTPResponse:
        return self.do_open(self._connection, req, context=self._verified)


def _hints(headers: email.message.Message) -> dict[str, str]:
    return {name: value for name in ("X-Linked-Etag", "X-Linked-Size") if (value := headers.get(name))}


def _reply(response: http.client.HTTPResponse, hints: dict[str, str]) -> Reply:
    headers = response.headers
    length = _number(headers.get("Content-Length"))
    chunked = headers.get("Transfer-Encoding", "").lower() == "chunked"
    start, total = 0, length
    if response.status == 206:
        matched = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", "").strip())
        if matched is None:
            raise PassingFailure("the server sent a part without saying which")
        start = int(matched[1])
        total = _number(matched[2]) or (start + length if length is not None else None)
    linked_size = _number(hints.get("X-Linked-Size"))
    linked = hints.get("X-Linked-Etag", "").removeprefix("W/").strip('"').lower()
    tag = headers.get("ETag", "")
    return Reply(
        start=start,
        total=linked_size if total is None else total,
        delimited=chunked or length is not None or linked_size is not None,
        sha256=linked if _SHA256.fullmatch(linked) else None,
        validator=tag if tag.startswith('"') else "",
        body=response,
    )


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() else None


def _refusal(status: int, headers: email.message.Message, address: Address, elsewhere: bool) -> Exception:
    code = headers.get("X-Error-Code", "")
    if status == _RANGE_NOT_SATISFIABLE:
        return RangeRefused()
    if code == "RepoNotFound" and status in (401, 403, 404):
        return RemoteFileMissing(f"there is no repository {address.page}, or it is private and HF_TOKEN has no access")
    if status in (401, 403) and elsewhere:
        # A signed address that ran out, or a storage with troubles of its own.
        return PassingFailure(f"its storage answers with HTTP status {status}")
    if status in (401, 403):
        if not address.page:
            return ModelGated(f"{address.host} refuses to give {address.shown} (HTTP status {status})")
        if address.token:
            return ModelGated(f"your HF_TOKEN has no access yet: accept the licence at {address.page} and try again")
        return ModelGated(f"accept the licence at {address.page}, set HF_TOKEN to a token of yours, and try again")
    if status in (404, 410, 451):
        what = "the revision in " if code == "RevisionNotFound" else ""
        fix = "try `wyoming-rknn models update`, or another mirror with --model-url"
        return RemoteFileMissing(f"{address.host} does not have {what}{address.shown} (HTTP status {status}); {fix}")
    if status in _RETRIED:
        wait_s = _number(headers.get("Retry-After")) or 0
        return PassingFailure(f"it answers with HTTP status {status}", wait_s=float(wait_s))
    fix = "check HTTPS_PROXY" if status == 407 else "try again later, or another mirror with --model-url"
    return DownloadError(f"{address.host} answers with HTTP status {status} for {address.shown}; {fix}")


def _unreachable(reason: object, address: Address) -> Exception:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return NetworkUnavailable(
            f"the certificate of {address.host} cannot be trusted ({reason.verify_message}); check the clock, install "
            "ca-certificates, or name your own authority in SSL_CERT_FILE"
        )
    if not isinstance(reason, OSError):
        return DownloadError(f"{address.shown} cannot be opened: {reason}; mend the catalogue or the mirror's address")
    gone = isinstance(reason, socket.gaierror | TimeoutError) or reason.errno in _UNREACHABLE
    return PassingFailure(_reason(reason), unreachable=gone)


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "it does not answer in time"
    if isinstance(error, http.client.HTTPException | ConnectionResetError | BrokenPipeError):
        return "the connection was lost"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
