# ruff: noqa: T201 - what it prints is read by the test
"""Print what a browser sees of Wyoming services, one JSON object per line, until standard input ends.

A line of standard input names an instance to be looked up again.
"""

import asyncio
import json
import sys

from zeroconf import IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

TYPE = "_wyoming._tcp.local."


async def main() -> None:
    browser_zeroconf = AsyncZeroconf(ip_version=IPVersion.V4Only)
    lookups: set[asyncio.Task[None]] = set()

    async def look_up(change: str, name: str) -> None:
        info = AsyncServiceInfo(TYPE, name)
        await info.async_request(browser_zeroconf.zeroconf, 3000)
        show(change, name, port=info.port, server=info.server, addresses=info.parsed_addresses())

    def show(change: str, name: str, **fields: object) -> None:
        print(json.dumps({"change": change, "name": name.removesuffix("." + TYPE), **fields}), flush=True)

    def seen(zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if state_change is ServiceStateChange.Removed:
            show("removed", name)
            return
        task = asyncio.create_task(look_up(state_change.name.lower(), name))
        lookups.add(task)
        task.add_done_callback(lookups.discard)

    browser = AsyncServiceBrowser(browser_zeroconf.zeroconf, TYPE, handlers=[seen])
    while name := (await asyncio.to_thread(sys.stdin.readline)).strip():
        await look_up("current", f"{name}.{TYPE}")
    await browser.async_cancel()
    await browser_zeroconf.async_close()


asyncio.run(main())
