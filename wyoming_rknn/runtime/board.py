"""The board: its chip, its NPU and what drives it, its CPU cores. Facts only, read from files within milliseconds."""

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from wyoming_rknn.errors import UsageError
from wyoming_rknn.runtime import cpus as cpu_cores
from wyoming_rknn.runtime.cpus import Cpu

ENVIRONMENT = "WYOMING_RKNN_SOC"
"""Names the chip where the setting does not."""
DRIVER = "RKNPU"
"""What the vendor's kernel driver calls itself; librknnrt speaks to no other one."""

_CHIPS = {
    "rk3588": "rk3588",
    "rk3582": "rk3588",
    "rk3583": "rk3588",
    "rk3576": "rk3576",
    "rk3568": "rk3568",
    "rk3567": "rk3568",
    "rk3566": "rk3566",
    "rk3562": "rk3562",
    "rv1126b": "rv1126b",
}
"""By the beginning of a chip's name, the target for which its models are made; what follows it, as in rk3588s, stands
for a package or a range of temperature."""
_CORES = {"rk3588": 3, "rk3576": 2}
"""NPU cores; one on all others. Only where there are several does librknnrt take core masks."""
TARGETS = tuple(dict.fromkeys(_CHIPS.values()))
"""All chips for which there is a model, a library and a driver."""

_TREES = ("proc/device-tree", "device-tree", "sys/firmware/devicetree/base")
"""Where the device tree is: usually, in a Home Assistant add-on, and what the first one is a link to."""
_NPU_EVENTS = ("sys/class/drm/renderD*/device/uevent", "sys/class/devfreq/*npu*/device/uevent")
"""What the kernel says of the NPU also in a container, which sees no device tree; it says rk3568 for an rk3566."""
_DRIVER_VERSIONS = ("sys/module/rknpu/version", "proc/rknpu/version", "sys/kernel/debug/rknpu/version")
_ROCKET = "sys/bus/platform/drivers/rocket"


@dataclass(frozen=True, slots=True)
class DeviceNode:
    """A file in /dev through which the NPU is used."""

    path: Path
    usable: bool = True
    reason: str = ""
    """Why it cannot be opened, and what to do: the rest of a sentence that begins with its path."""


@dataclass(frozen=True, slots=True)
class Board:
    """What the program computes on."""

    soc: str | None = None
    """The target for which models must be made, such as "rk3588", also on an rk3588s; `None` where there is none."""
    model: str | None = None
    """The maker's name for the board."""
    npu_cores: int = 0
    has_core_masks: bool = False
    driver: str | None = None
    """Version of the NPU's kernel driver, where it can be read without being root."""
    devices: tuple[DeviceNode, ...] = ()
    """Empty where the kernel has no driver for the NPU."""
    cpus: tuple[Cpu, ...] = ()
    big_cpus: tuple[int, ...] = ()
    """The fast cores, where others are slower."""
    soc_source: str = ""
    """How the chip is known: "--soc", the name of a variable, or of a file."""
    soc_unknown: str | None = None
    """The chip that was set by hand and is none of `TARGETS`."""
    npu_governor: str | None = None
    """What chooses the NPU's frequency."""
    has_rocket: bool = False
    """Whether the kernel drives the NPU with `rocket`, which librknnrt cannot use."""
    container: str = ""
    """"add-on", "container", or nothing."""

    @classmethod
    def read(cls, root: Path = Path("/"), soc: str | None = None, environment: Mapping[str, str] = os.environ) -> Self:
        """Look at the machine whose files are below `root`. `soc`, if set, wins over what is found. Never raises."""
        named = soc or environment.get(ENVIRONMENT)
        if named:
            name, source = target(named), "--soc" if soc else ENVIRONMENT
        else:
            name, source = _soc(root)
        cpus = cpu_cores.read(root)
        container = _container(root, environment)
        return cls(
            soc=name,
            model=_model(root),
            npu_cores=_CORES.get(name, 1) if name else 0,
            has_core_masks=name in _CORES,
            driver=_driver(root),
            devices=tuple(_devices(root, container)),
            cpus=cpus,
            big_cpus=cpu_cores.big(cpus),
            soc_source=source,
            soc_unknown=named if named and name is None else None,
            npu_governor=next(filter(None, map(_text, _glob(root, "sys/class/devfreq/*npu*/governor"))), None),
            has_rocket=any(_glob(root, f"{_ROCKET}/*:*")) or any(_glob(root, f"{_ROCKET}/*.npu")),
            container=container,
        )


def target(chip: str) -> str | None:
    """Return the target of a chip, whose name may be followed by a board's: rk3588s and rk3588-evb1 are "rk3588"."""
    name = chip.strip().casefold().split(",")[-1]
    return next((made_for for begin, made_for in _CHIPS.items() if name.startswith(begin)), None)


def cpus_for(affinity: str, board: Board, allowed: AbstractSet[int] | None = None) -> tuple[int, ...]:
    """Return the cores to which computations are to be bound; none if they may use all that the process may.

    `affinity` is "auto" for the fast cores, "none", or a list of cores; `allowed` are the process's, by default as it
    is. Raises `UsageError` if it is none of these, or the process cannot use a core.
    """
    wanted = affinity.strip().casefold()
    if wanted == "none":
        return ()
    own = os.sched_getaffinity(0) if allowed is None else allowed
    if wanted == "auto":
        return tuple(number for number in board.big_cpus if number in own)
    numbers = cpu_cores.parse(affinity)
    if lacking := [number for number in numbers if number not in own]:
        raise UsageError(
            f"--cpu-affinity {affinity} names cores that this process cannot use: {cpu_cores.listed(lacking)}; it has"
            f" {cpu_cores.listed(own)}"
        )
    return numbers


def _soc(root: Path) -> tuple[str | None, str]:
    """Return the chip's target and which file told it."""
    for tree in _TREES:
        path = root / tree / "compatible"
        # The entries go from the most specific to the least: the board's name, then its chip, then chips like it.
        for entry in (_text(path) or "").split("\0"):
            if name := target(entry):
                return name, str(path)
    for path in _glob(root, *_NPU_EVENTS):
        for key, value in _variables(path):
            if key.startswith("OF_COMPATIBLE_") and (name := target(value)):
                return name, str(path)
    path = root / "sys/devices/soc0/soc_id"
    name = target(_text(path) or "")
    return name, str(path) if name else ""


def _model(root: Path) -> str | None:
    paths = (*(root / tree / "model" for tree in _TREES), root / "sys/devices/soc0/machine")
    return next(filter(None, ((_text(path) or "").strip("\0").strip() for path in paths)), None)


def _driver(root: Path) -> str | None:
    for path in _DRIVER_VERSIONS:
        if match := re.search(r"\d+\.\d+\.\d+", _text(root / path) or ""):
            return match[0]
    return None


def _devices(root: Path, container: str) -> Iterator[DeviceNode]:
    for event in _glob(root, "sys/class/drm/renderD*/device/uevent"):
        # The NPU is renderD129 on one board and renderD128 on the next; the other one is the GPU.
        if ("DRIVER", DRIVER) in _variables(event):
            yield _node(root / "dev/dri" / event.parent.parent.name, container)
    path = root / "dev/rknpu"
    if path.exists() or (root / "sys/class/misc/rknpu").exists():
        yield _node(path, container)


def _node(path: Path, container: str) -> DeviceNode:
    try:
        if stat.S_ISCHR(path.stat().st_mode):
            # Permissions are not all: a container may show a device and forbid to open it.
            os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
        elif not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, "")
    except OSError as error:
        return DeviceNode(path, False, _reason(error, container))
    return DeviceNode(path)


def _reason(error: OSError, container: str) -> str:
    given = {
        "add-on": "let the add-on have it with `video: true` and `devices: [/dev/rknpu]` in its config.yaml",
        "container": "start the container with --device /dev/dri, and with --device /dev/rknpu where that exists",
    }
    if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
        return f"is not there; {given.get(container, 'load the driver anew, or restart the board')}"
    if error.errno == errno.EPERM and container:
        return f"must not be opened here; {given[container]}"
    if error.errno in (errno.EACCES, errno.EPERM):
        groups = "--group-add with the numbers of the host's groups render and video"
        join = "add the user to the groups render and video: sudo usermod -aG render,video USER, then log in anew"
        return f"must not be opened by this user; {f'start the container with {groups}' if container else join}"
    return f"cannot be opened: {os.strerror(error.errno or 0)}; look for RKNPU in what dmesg prints"


def _container(root: Path, environment: Mapping[str, str]) -> str:
    if "SUPERVISOR_TOKEN" in environment:
        return "add-on"
    marks = (root / ".dockerenv", root / "run/.containerenv")
    return "container" if "container" in environment or any(mark.exists() for mark in marks) else ""


def _variables(path: Path) -> tuple[tuple[str, str], ...]:
    """Return the NAME=VALUE lines of a device's uevent."""
    lines = (line.partition("=") for line in (_text(path) or "").splitlines())
    return tuple((name, value) for name, _, value in lines)


def _glob(root: Path, *patterns: str) -> Iterator[Path]:
    for pattern in patterns:
        try:
            yield from sorted(root.glob(pattern))
        except OSError:
            continue


def _text(path: Path) -> str | None:
    try:
        return path.read_bytes()[:4096].decode(errors="replace").strip("\n")
    except OSError:
        return None
