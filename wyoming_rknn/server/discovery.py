"""Announce the listening ports by zeroconf (multicast DNS), so that Home Assistant finds them by itself.

Home Assistant takes the first announced address that is neither unspecified nor link-local, and ignores a record that
has none; so the real addresses of the interfaces are announced, and announced again when they change.
"""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar, cast

from wyoming_rknn import __version__
from wyoming_rknn.server import addresses
from wyoming_rknn.server.addresses import Address, Sender
from wyoming_rknn.server.instance import host_label

if TYPE_CHECKING:
    from zeroconf import ServiceInfo
    from zeroconf.asyncio import AsyncZeroconf

_LOGGER = logging.getLogger(__name__)
_T = TypeVar("_T")

SERVICE_TYPE = "_wyoming._tcp.local."
CHECK_INTERVAL_S = 10.0
CLOSE_TIMEOUT_S = 1.0
_MAX_RENAMES = 99


@dataclass(frozen=True, slots=True)
class Announcement:
    """A listening port and the name it is to be found under."""

    instance: str
    port: int
    host: str
    """What the port is bound to, as the user gave it: `0.0.0.0`, `::`, nothing, an address or a name."""


@dataclass(slots=True, eq=False)
class _Service:
    announcement: Announcement
    name: str
    """The instance name in use; differs from the announcement's after a collision."""
    bound: tuple[Address, ...] | None
    owned: bool = False
    """The name was found free on the network and is ours from then on."""
    announced: bool = False
    unreachable: bool = False
    """It was said that nobody can reach this port."""


_Plan = tuple[tuple[tuple[Address, ...], ...], tuple[Sender, ...]]
"""The addresses of each service, and where to send from."""


class Announcer:
    """Keep the announcements of all ports true until closed. Failures are logged, never raised.

    `zeroconf` is loaded by `start`, in a thread, and not before.
    """

    def __init__(self, announcements: Sequence[Announcement], *, check_interval_s: float = CHECK_INTERVAL_S) -> None:
        self._services = [_Service(each, each.instance, addresses.literal(each.host)) for each in announcements]
        self._check_interval_s = check_interval_s
        self._zeroconf: AsyncZeroconf | None = None
        self._published: _Plan | None = None
        self._task: asyncio.Task[None] | None = None
        self._warned = False
        self._filter = _ToDebug()

    @property
    def names(self) -> tuple[str, ...]:
        """Return the instance names that are announced now, collisions resolved; in the order of the ports."""
        return tuple(service.name for service in self._services if service.announced)

    async def start(self) -> None:
        """Begin to announce in the background; returns at once."""
        logging.getLogger("zeroconf").addFilter(self._filter)
        self._task = asyncio.create_task(self._run(), name="zeroconf")

    async def close(self) -> None:
        """Withdraw what was announced. Takes at most a second, never raises."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                if self._task is not None:
                    self._task.cancel()
                    await asyncio.wait([self._task])
                if self._zeroconf is not None:
                    await self._zeroconf.async_close()
        except Exception as error:
            _LOGGER.debug("zeroconf was not closed cleanly: %r", error)
            if self._zeroconf is not None:
                with contextlib.suppress(Exception):
                    self._zeroconf.zeroconf.close()
        finally:
            self._zeroconf = None
            for service in self._services:
                service.announced = False
            logging.getLogger("zeroconf").removeFilter(self._filter)

    async def _run(self) -> None:
        try:
            await _in_thread(_load)
        except Exception as error:
            self._warn(error)
            return
        while True:
            try:
                await self._check()
            except Exception as error:
                # Whatever is wrong with the network, the service goes on; the next check tries again.
                self._published = None
                self._warn(error)
            await asyncio.sleep(self._check_interval_s)

    async def _check(self) -> None:
        for service in self._services:
            if service.bound is None:
                with contextlib.suppress(OSError):
                    service.bound = await _in_thread(partial(addresses.resolve, service.announcement.host))
        present = addresses.interfaces()
        found = tuple(addresses.reachable(service.bound or (), present) for service in self._services)
        plan = found, addresses.senders((address for each in found for address in each), present)
        if plan == self._published:
            return
        for service, reachable in zip(self._services, found, strict=True):
            if not reachable and not service.unreachable:
                _LOGGER.info(
                    "zeroconf: %s has no address on a network; port %d is announced once there is one",
                    service.announcement.host or "the machine",
                    service.announcement.port,
                )
            service.unreachable = not reachable
        if (error := addresses.multicast_error(plan[1])) is not None:
            raise error
        await self._publish(plan)

    async def _publish(self, plan: _Plan) -> None:
        from zeroconf import IPVersion
        from zeroconf.asyncio import AsyncZeroconf

        served = [(service, found) for service, found in zip(self._services, plan[0], strict=True) if found]
        # Sockets belong to addresses, so all are made anew. What stays gets no goodbye: Home Assistant would drop it.
        await self._withdraw(keep={service.name for service, _ in served if service.owned})
        if served:
            self._zeroconf = AsyncZeroconf(
                interfaces=[str(sender.address) for sender in plan[1]],
                ip_version=IPVersion.All if any(s.address.version == 6 for s in plan[1]) else IPVersion.V4Only,
            )
            await self._zeroconf.zeroconf.async_wait_for_start()
            registrations = (self._register(self._zeroconf, service, found) for service, found in served)
            failures = [each for each in await asyncio.gather(*registrations, return_exceptions=True) if each]
            if failures:
                raise failures[0]
        self._published = plan

    async def _register(self, zeroconf: "AsyncZeroconf", service: _Service, found: tuple[Address, ...]) -> None:
        from zeroconf import NonUniqueNameException, ServiceNameAlreadyRegistered

        wanted = service.announcement.instance
        for number in range(1, _MAX_RENAMES + 1):
            if not service.owned:
                service.name = wanted if number == 1 else f"{wanted}-{number}"
                if any(other.name == service.name for other in self._services if other is not service):
                    continue
            info = _service_info(service, found)
            try:
                # A name that is ours already is not probed again: a reflector's echo would pass for a collision.
                sent = await zeroconf.async_register_service(info, cooperating_responders=service.owned)
            except (NonUniqueNameException, ServiceNameAlreadyRegistered):
                continue
            if service.name != wanted and not service.owned:
                _LOGGER.warning(
                    "zeroconf: the name %r is taken on this network, announced as %r; choose one with --zeroconf NAME",
                    wanted,
                    service.name,
                )
            service.owned = service.announced = True
            _LOGGER.info(
                "zeroconf: announced %s at %s, port %d",
                info.name,
                ", ".join(map(str, found)),
                service.announcement.port,
            )
            await sent
            return
        raise OSError(f"the name {wanted!r} and {_MAX_RENAMES - 1} like it are taken on this network")

    async def _withdraw(self, keep: set[str]) -> None:
        if self._zeroconf is None:
            return
        registry = self._zeroconf.zeroconf.registry
        registry.async_remove([info for info in registry.async_get_service_infos() if info.get_name() in keep])
        await self._zeroconf.async_close()
        self._zeroconf = None
        for service in self._services:
            service.announced = False

    def _warn(self, error: Exception) -> None:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
        _LOGGER.log(
            logging.DEBUG if self._warned else logging.WARNING,
            "zeroconf: cannot announce the service (%s); add it to Home Assistant by host and port, "
            "and start with --no-zeroconf to be without this message",
            reason,
        )
        self._warned = True


class _ToDebug(logging.Filter):
    """Send the library's warnings and tracebacks about sockets to DEBUG: what matters of them is said here."""

    def filter(self, record: logging.LogRecord) -> bool:
        _LOGGER.debug("zeroconf library: %s", record.getMessage())
        return False


def _service_info(service: _Service, found: tuple[Address, ...]) -> "ServiceInfo":
    from zeroconf import ServiceInfo

    return ServiceInfo(
        SERVICE_TYPE,
        f"{service.name}.{SERVICE_TYPE}",
        port=service.announcement.port,
        server=f"{host_label(service.name, socket.gethostname())}.local.",
        addresses=[address.packed for address in found],
        properties={"version": __version__},
    )


def _load() -> None:
    import ifaddr  # noqa: F401 - loads the C library by way of a child process, which takes its time
    import zeroconf.asyncio  # noqa: F401


async def _in_thread(work: Callable[[], _T]) -> _T:
    """Run `work` in a thread that the process does not wait for when it ends, unlike asyncio's own."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: Exception | None) -> None:
        if future.done():  # cancelled meanwhile
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast(_T, result))

    def run() -> None:
        result: _T | None = None
        failure: Exception | None = None
        try:
            result = work()
        except Exception as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name="zeroconf", daemon=True).start()
    return await future
