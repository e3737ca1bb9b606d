"""CPU cores: which there are, which are the fast ones, and lists of them as people write them."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wyoming_rknn.errors import UsageError

_BIG_SHARE = 0.75
"""How fast a big core is at least, next to the fastest one. Cores of one kind differ by a tenth through the frequencies
that their clusters reach (RK3588: 2256 to 2400 MHz), while a Cortex-A55 has some 0.4 of a Cortex-A76, and a Cortex-A53
half of a Cortex-A72."""
_MOST = 8192
"""Cores that Linux can be built for on any machine there is; a larger number is a slip of the pen."""


@dataclass(frozen=True, slots=True)
class Cpu:
    """A core that is switched on."""

    number: int
    capacity: int | None = None
    """Its speed in 1/1024 of the fastest core's, where the kernel tells."""
    governor: str | None = None
    """What chooses its frequency: "performance", "schedutil", "ondemand"."""


def read(root: Path) -> tuple[Cpu, ...]:
    """Return the cores that `root`/sys shows, by number; none if it shows nothing. Never raises."""
    folder = f"{root}/sys/devices/system/cpu"
    try:
        names = os.listdir(folder)  # noqa: PTH208 - a Path for each of 256 cores takes longer than to read what it says
    except OSError:
        return ()
    numbers = sorted(int(name[3:]) for name in names if re.fullmatch(r"cpu\d+", name))
    return tuple(_cpu(f"{folder}/cpu{number}", number) for number in numbers if _is_online(f"{folder}/cpu{number}"))


def big(cpus: Sequence[Cpu]) -> tuple[int, ...]:
    """Return the numbers of the cores that are about as fast as the fastest; none if all are, or nothing is known."""
    capacities = {cpu.number: cpu.capacity for cpu in cpus if cpu.capacity}
    least = _BIG_SHARE * max(capacities.values(), default=0)
    fast = tuple(number for number, capacity in capacities.items() if capacity >= least)
    return fast if len(fast) < len(cpus) else ()


def parse(text: str) -> tuple[int, ...]:
    """Return the cores of a list such as `4-7` or `0,4,5`, in order. Raises `UsageError` if it is not one."""
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < _MOST:
            raise UsageError(f"--cpu-affinity must be auto, none, or a list of cores such as 4-7 or 4,5, not {text!r}")
        found.update(range(first, last + 1))
    return tuple(sorted(found))


def listed(numbers: Iterable[int]) -> str:
    """Return cores as a list that `parse` understands, such as `0-3,6`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


def _is_online(folder: str) -> bool:
    # A core that cannot be switched off has no such file.
    return _text(f"{folder}/online") != "0"


def _cpu(folder: str, number: int) -> Cpu:
    capacity = _text(f"{folder}/cpu_capacity")
    return Cpu(
        number,
        int(capacity) if capacity is not None and capacity.isdecimal() else None,
        _text(f"{folder}/cpufreq/scaling_governor"),
    )


def _text(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - as above
            return file.read(64).strip() or None
    except OSError:
        return None
