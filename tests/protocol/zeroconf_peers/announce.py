# ruff: noqa: T201 - what it prints is read by the test
"""Announce what standard input's first line says, until its second line or its end."""

import asyncio
import json
import logging
import sys
import threading
import time

from wyoming_rknn.server.discovery import Announcement, Announcer


async def main() -> None:
    order = json.loads(sys.stdin.readline())
    announcements = [Announcement(*each) for each in order["announcements"]]
    announcer = Announcer(announcements, check_interval_s=order["check_interval_s"])
    await announcer.start()
    await asyncio.to_thread(sys.stdin.readline)
    names = announcer.names
    begin = time.monotonic()
    await announcer.close()
    left_behind = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    # asyncio's own pool waits for the line above and stays.
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("zeroconf")]
    report = {"names": names, "close_s": time.monotonic() - begin, "tasks": left_behind, "threads": threads}
    print(json.dumps(report), flush=True)


logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
asyncio.run(main(), debug=True)
