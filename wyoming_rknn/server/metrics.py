"""What the server does, in numbers that Prometheus fetches by HTTP.

Nothing here tells what was said or by whom: labels are names of engines, devices and priorities, and codes of errors.
It imports `prometheus_client`, and is itself imported only where `--metrics-uri` is set.
"""

import asyncio
import logging
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from wyoming_rknn import __version__
from wyoming_rknn.errors import SpeechServerError, UsageError
from wyoming_rknn.runtime.scheduler import LLM, NPU, Count
from wyoming_rknn.server.endpoint import Endpoint, bind
from wyoming_rknn.server.service import Finished, Service

_LOGGER = logging.getLogger(__name__)

PATH = "/metrics"
BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""From what is ready before it is asked for to what nobody waits for any more."""
CLIENTS = 16
"""Scrapes at once; more are refused."""
HEAD_BYTES = 8192
REQUEST_S = 5.0
"""From a scrape's connection to its end: who sends or reads more slowly is cut off."""
_LINGER_S = 1.0
"""How long input is thrown away after the answer, lest unread bytes reset the connection and lose it."""
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Of the text format that every Prometheus reads."""
_PREFIX = "wyoming_rknn_"
_PRIORITIES = ("device", "priority")
_DONE: tuple[tuple[str, str, Callable[[Count], float]], ...] = (
    ("computations", "Computations that were begun and have ended.", lambda count: count.jobs),
    ("computations_failed", "Computations that failed.", lambda count: count.failed),
    ("device_busy_seconds", "Duration of computations, summed over a device's cores.", lambda count: count.ran_s),
    ("queue_wait_seconds", "Time that computations waited for their device.", lambda count: count.waited_s),
)


class Metrics:
    """The numbers of one server, in a registry of its own. Thread-safe; the `Observer` of a service."""

    def __init__(self, service: Service, connections: Callable[[], int]) -> None:
        """Count for `service`; `connections` tells how many clients are connected."""
        own = CollectorRegistry()
        self._requests = Counter(
            f"{_PREFIX}requests",
            'Requests that were taken in, by how they ended: "ok", "cancelled", or the code of the error.',
            ("kind", "engine", "outcome"),
            registry=own,
        )
        self._latencies = {
            "tts": Histogram(
                f"{_PREFIX}first_audio_seconds",
                "From a request, or the beginning of its text stream, to the first audio.",
                ("engine",),
                registry=own,
                buckets=BUCKETS_S,
            ),
            "asr": Histogram(
                f"{_PREFIX}transcript_latency_seconds",
                "From the end of the audio to the transcript.",
                ("engine",),
                registry=own,
                buckets=BUCKETS_S,
            ),
        }
        self._audio = Counter(
            f"{_PREFIX}audio_seconds", "Audio spoken or listened to.", ("kind", "engine"), registry=own
        )
        self._errors = Counter(
            f"{_PREFIX}errors", "Errors that clients were told, refusals included.", ("code",), registry=own
        )
        connected = Gauge(f"{_PREFIX}connections", "Connected clients.", registry=own)
        connected.set_function(connections)
        active = Gauge(f"{_PREFIX}requests_active", "Requests being worked on.", registry=own)
        active.set_function(lambda: service.active)
        Info(f"{_PREFIX}build", "The program.", registry=own).info(
            {"version": __version__, "python": platform.python_version(), "machine": platform.machine()}
        )
        own.register(_State(service))
        ProcessCollector(registry=own)
        self._registry = _WithoutCreated(own)

    def finished(self, request: Finished) -> None:
        """Count a request, its audio, and how long it took to answer."""
        self._requests.labels(request.kind, request.engine, request.outcome).inc()
        self._audio.labels(request.kind, request.engine).inc(request.audio_s)
        if request.latency_s is not None:
            self._latencies[request.kind].labels(request.engine).observe(request.latency_s)

    def reported(self, error: SpeechServerError) -> None:
        """Count an error that a client is told."""
        self._errors.labels(error.code).inc()

    def render(self) -> bytes:
        """Return all numbers in Prometheus' text format. Takes milliseconds."""
        return generate_latest(self._registry)


class _WithoutCreated(Collector):
    """A registry without the times at which each number began, which would double it."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class _State(Collector):
    """What scheduler and memory know, read when it is asked for."""

    def __init__(self, service: Service) -> None:
        self._scheduler = service.scheduler
        self._memory = service.memory

    def collect(self) -> Iterator[Metric]:
        counts, memory = self._scheduler.counts(), self._memory
        for name, meaning, number in _DONE:
            yield _by_priority(
                CounterMetricFamily(_PREFIX + name, meaning, labels=_PRIORITIES),
                {device: {each: number(count) for each, count in done.items()} for device, done in counts.items()},
            )
        yield _by_priority(
            GaugeMetricFamily(f"{_PREFIX}queue_depth", "Computations that wait for a device.", labels=_PRIORITIES),
            self._scheduler.waiting(),
        )
        yield CounterMetricFamily(
            f"{_PREFIX}npu_fallbacks",
            "Computations that failed on the NPU, which something else had to do; none while it rests for that.",
            value=sum(count.failed for device in (NPU, LLM) for count in counts.get(device, {}).values()),
        )
        yield GaugeMetricFamily(f"{_PREFIX}models", "Models in memory.", value=len(memory.names))
        yield GaugeMetricFamily(f"{_PREFIX}models_bytes", "What models take, by estimate.", value=memory.used_bytes)
        if (budget := memory.budget_bytes) is not None:
            yield GaugeMetricFamily(f"{_PREFIX}models_budget_bytes", "What models may take.", value=budget)


def _by_priority(
    family: CounterMetricFamily | GaugeMetricFamily, values: Mapping[str, Mapping[str, float]]
) -> CounterMetricFamily | GaugeMetricFamily:
    for device, priorities in values.items():
        for priority, value in priorities.items():
            family.add_metric((device, priority), value)
    return family


class Scrapes:
    """Answer `GET /metrics` with what `render` returns, and nothing else; bounded in time, size, and number."""

    def __init__(self, uri: str, render: Callable[[], bytes]) -> None:
        self._uri = uri
        self._render = render
        self._rendering = asyncio.Lock()
        self._listeners: list[asyncio.Server] = []
        self._clients: set[asyncio.Task[None]] = set()
        self.url = ""
        """Where the numbers are, with the real port number."""

    async def start(self) -> None:
        """Listen. Raises `UsageError` for an address that cannot be served."""
        try:
            sockets = bind(_address(self._uri))
        except UsageError as error:
            # The reasons are those of all addresses, the setting to change is not.
            raise UsageError(str(error).replace("with --uri", "with --metrics-uri")) from None
        for listener in sockets:
            self._listeners.append(await asyncio.start_server(self._serve, sock=listener, limit=HEAD_BYTES))
        place = Endpoint("tcp", *sockets[0].getsockname()[:2])
        self.url = f"http{str(place).removeprefix('tcp')}{PATH}"
        _LOGGER.info("metrics for Prometheus at %s", self.url)

    async def close(self) -> None:
        """Refuse new scrapes and cut off those under way."""
        for listener in self._listeners:
            listener.close()
        for client in self._clients:
            client.cancel()
        if self._clients:
            await asyncio.wait(self._clients)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            async with asyncio.timeout(REQUEST_S):
                if len(self._clients) > CLIENTS:
                    await _conclude(reader, writer, _message(HTTPStatus.SERVICE_UNAVAILABLE))
                else:
                    await self._answer(reader, writer)
        # Streams of Python 3.11 and 3.12 log a cancelled task as an error.
        except (OSError, EOFError, asyncio.CancelledError) as error:
            _LOGGER.debug("a scrape was given up: %s", type(error).__name__)
        finally:
            writer.transport.abort()
            self._clients.discard(task)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            status, is_head = _judge(await reader.readuntil(b"\r\n\r\n"))
        except asyncio.LimitOverrunError:
            status, is_head = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, False
        numbers = b""
        if status is HTTPStatus.OK:
            # One at a time: the threads belong to the requests.
            async with self._rendering:
                numbers = await asyncio.to_thread(self._render)
        await _conclude(reader, writer, _message(status, numbers, is_head))


async def _conclude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, message: bytes) -> None:
    """Send an answer, and read on for a while: what is unread at the end would reset the connection and lose it."""
    writer.write(message)
    await writer.drain()
    writer.write_eof()
    with suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_S):
            while await reader.read(HEAD_BYTES):
                pass


def _address(uri: str) -> Endpoint:
    with suppress(UsageError):
        endpoint = Endpoint.parse(uri)
        if endpoint.scheme == "tcp":
            return endpoint
    raise UsageError(
        f"--metrics-uri {uri!r} is no address for HTTP; write tcp://HOST:PORT, for example tcp://127.0.0.1:9110"
    )


def _judge(head: bytes) -> tuple[HTTPStatus, bool]:
    """Return the status of the answer to a request, and whether only its head is wanted."""
    words = head.partition(b"\r\n")[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return HTTPStatus.BAD_REQUEST, False
    method, target, _ = words
    if target.partition(b"?")[0] != PATH.encode():
        return HTTPStatus.NOT_FOUND, method == b"HEAD"
    if method not in (b"GET", b"HEAD"):
        return HTTPStatus.METHOD_NOT_ALLOWED, False
    return HTTPStatus.OK, method == b"HEAD"


def _message(status: HTTPStatus, numbers: bytes = b"", is_head: bool = False) -> bytes:
    """Return an answer; one that has no numbers says why."""
    body = numbers or f"{status.phrase}; the numbers are at {PATH}\n".encode()
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {_CONTENT_TYPE if numbers else 'text/plain; charset=utf-8'}",
        f"Content-Length: {len(body)}",
        "Connection: close",
    ]
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        lines.append("Allow: GET, HEAD")
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if is_head else body)
