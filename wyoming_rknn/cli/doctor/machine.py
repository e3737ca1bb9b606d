"""The machine: board, NPU, CPU cores, memory, disk."""

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from wyoming_rknn import __version__
from wyoming_rknn.cli.doctor.lines import Line
from wyoming_rknn.runtime.board import DRIVER, ENVIRONMENT, TARGETS
from wyoming_rknn.runtime.cpus import listed
from wyoming_rknn.runtime.runtimes import ONNX, Runtimes
from wyoming_rknn.settings import Settings

_SLOW_GOVERNORS = {"powersave", "ondemand", "conservative"}
"""They raise a core's frequency only after it has been busy for longer than the first words of a reply take."""
_OLDEST_DRIVER = (0, 9, 6)
"""With older ones librknnrt 2 is known to fail."""
_LEAST_MEMORY_MIB = 512
_LEAST_DISK_MIB = 256
_MIB = 1 << 20


def program(_settings: Settings, _runtimes: Runtimes) -> Iterator[Line]:
    """Tell what runs."""
    text = f"wyoming-rknn {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    if sys.maxsize > 2**32:
        yield Line("program", "ok", text)
    else:
        yield Line("program", "warn", f"{text}, 32 bits", "install a 64-bit system: librknnrt has no other programs")


def board(_settings: Settings, runtimes: Runtimes) -> Iterator[Line]:
    """Tell the board and its chip."""
    found = runtimes.board
    name = found.model or "a machine without a name"
    if found.soc_unknown is not None:
        text = f"{found.soc_unknown!r}, as {found.soc_source} says, is no chip with an NPU that is known"
        yield Line("board", "fail", text, f"name one of {', '.join(TARGETS)}, or leave {found.soc_source} unset")
    elif found.soc is None and found.devices:
        text = f"{name}: there is an NPU, but its chip is not known"
        yield Line("board", "warn", text, f"name the chip with --soc or {ENVIRONMENT}: one of {', '.join(TARGETS)}")
    elif found.soc is None:
        yield Line("board", "ok", f"{name}: no Rockchip chip with an NPU that is known, the CPU computes")
    elif found.soc == "rk3568" and found.soc_source.endswith("uevent"):
        text = f"{name}: rk3568 or rk3566, whose NPUs are alike; taken for an rk3568"
        yield Line("board", "warn", text, f"name the chip with --soc or {ENVIRONMENT}, for models are made for one")
    else:
        yield Line("board", "ok", f"{name}: {found.soc}, as {found.soc_source} says")


def npu(settings: Settings, runtimes: Runtimes) -> Iterator[Line]:
    """Tell the NPU's cores, and whether its devices may be used."""
    found = runtimes.board
    if found.soc is None and not found.devices:
        return
    cores = f"{found.npu_cores} {'core' if found.npu_cores == 1 else 'cores'}"
    slow = found.npu_governor == "powersave"
    frequency = f", governor {found.npu_governor}" if found.npu_governor else ""
    yield Line(
        "npu",
        "warn" if slow else "ok",
        cores + frequency,
        "as root: echo performance | tee /sys/class/devfreq/*npu*/governor" if slow else "",
    )
    if settings.runtime == ONNX:
        return
    if not found.devices:
        if found.has_rocket:
            text = "the kernel drives the NPU with rocket, which librknnrt cannot use"
        elif found.container:
            text = f"no device of the {DRIVER} driver is seen in this container"
        else:
            text = f"the kernel shows no device of the {DRIVER} driver"
        where = " on the host" if found.container else ""
        fix = f"install the board maker's kernel{where}, 5.10 or 6.1, which has the rknpu driver"
        yield Line("device", "warn", text, fix)
    for node in found.devices:
        if node.usable:
            yield Line("device", "ok", f"{node.path} may be used")
        else:
            reason, _, fix = node.reason.partition("; ")
            yield Line("device", "warn", f"{node.path} {reason}", fix)


def driver(_settings: Settings, runtimes: Runtimes) -> Iterator[Line]:
    """Tell the version of the NPU's kernel driver; the library knows it once it has loaded a model."""
    found = runtimes.board
    if found.soc is None and not found.devices:
        return
    told = runtimes.accelerator.versions.driver if runtimes.accelerator else ""
    version = told or found.driver
    if version is None:
        yield Line("driver", "ok", "its version can be read by root alone, in /sys/kernel/debug/rknpu/version")
        return
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if numbers and numbers < _OLDEST_DRIVER:
        least = ".".join(map(str, _OLDEST_DRIVER))
        yield Line("driver", "warn", f"{version} is older than {least}", "update the kernel of the board")
    else:
        yield Line("driver", "ok", version)


def cpu(_settings: Settings, runtimes: Runtimes) -> Iterator[Line]:
    """Tell the CPU cores, which of them compute, and what chooses their frequency."""
    found = runtimes.board
    own = os.sched_getaffinity(0)
    bound = f"cores {listed(runtimes.cpus)}" if runtimes.cpus else "all of them"
    text = f"{len(own)} of {len(found.cpus) or len(own)} cores"
    if found.big_cpus:
        text += f", fast ones {listed(found.big_cpus)}"
    text += f"; {runtimes.threads} {'thread computes' if runtimes.threads == 1 else 'threads compute'} on {bound}"
    usable = len(runtimes.cpus or own)
    if found.big_cpus and not own.intersection(found.big_cpus):
        fix = f"let it use {listed(found.big_cpus)}: CPUAffinity of the systemd unit, --cpuset-cpus of the container"
        yield Line("cpu", "warn", f"{text}; this process may use slow cores only", fix)
    elif runtimes.threads > usable:
        yield Line("cpu", "warn", f"{text}, more threads than cores", f"--threads {usable}, or leave it unset")
    else:
        yield Line("cpu", "ok", text)
    yield from _governor(runtimes)


def _governor(runtimes: Runtimes) -> Iterator[Line]:
    found = runtimes.board
    fast = [cpu for cpu in found.cpus if cpu.governor and (not found.big_cpus or cpu.number in found.big_cpus)]
    names = sorted({cpu.governor for cpu in fast if cpu.governor})
    if not names:
        return
    text = f"{' and '.join(names)}{' on the fast cores' if found.big_cpus else ''}"
    # Elsewhere such names stand for something quicker: Intel's powersave is a match for schedutil.
    slow = [cpu.number for cpu in fast if cpu.governor in _SLOW_GOVERNORS] if found.soc else []
    if slow:
        cores = f"cpu{slow[0]}" if len(slow) == 1 else f"cpu{{{','.join(map(str, slow))}}}"
        fix = f"as root: echo performance | tee /sys/devices/system/cpu/{cores}/cpufreq/scaling_governor"
        yield Line("governor", "warn", f"{text}: the first words come late", fix)
    else:
        yield Line("governor", "ok", text)


def memory(_settings: Settings, _runtimes: Runtimes) -> Iterator[Line]:
    """Tell how much memory is left."""
    try:
        content = Path("/proc/meminfo").read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        return
    mib = {name: int(kib) >> 10 for name, kib in re.findall(r"^(\w+):\s+(\d+) kB$", content, re.MULTILINE)}
    if {"MemAvailable", "MemTotal"} <= mib.keys():
        yield memory_line(mib["MemAvailable"], mib["MemTotal"])


def memory_line(free_mib: int, total_mib: int) -> Line:
    """Judge what is left."""
    text = f"{free_mib} of {total_mib} MiB are free"
    if free_mib < _LEAST_MEMORY_MIB:
        return Line("memory", "warn", text, "end other programs, or install fewer or smaller models")
    return Line("memory", "ok", text)


def cache(settings: Settings, _runtimes: Runtimes) -> Iterator[Line]:
    """Tell whether what is derived from models can be kept."""
    folder = settings.cache
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), Path("/"))
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        text = f"{folder} cannot be written: each start cuts voices and tests the NPU anew"
        yield Line("cache", "warn", text, "name another folder with --cache-dir, or change its owner")
        return
    free_mib = shutil.disk_usage(there).free // _MIB
    if free_mib < _LEAST_DISK_MIB:
        yield Line("cache", "warn", f"{folder}, {free_mib} MiB are free", "make room, or name another --cache-dir")
    else:
        yield Line("cache", "ok", f"{folder}, {free_mib} MiB are free")
