"""What computes graphs on this machine: the CPU always, an NPU where there is one that can be used."""

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Self

from wyoming_rknn.errors import RuntimeUnavailable
from wyoming_rknn.runtime import onnx
from wyoming_rknn.runtime.accelerator import Accelerator
from wyoming_rknn.runtime.board import Board, cpus_for
from wyoming_rknn.runtime.memory import MIB, Memory, default_budget_bytes
from wyoming_rknn.runtime.onnx import OnnxGraph
from wyoming_rknn.runtime.scheduler import CPU, LLM, NPU, Scheduler
from wyoming_rknn.settings import Settings

_LOGGER = logging.getLogger(__name__)

AUTO, ONNX, RKNN, RKNN_LITE = "auto", "onnx", "rknn", "rknn-lite"
_NAMES = {RKNN: "librknnrt", RKNN_LITE: "rknn-toolkit-lite2"}


class Runtimes:
    """The runtimes that the settings choose; made once for a process and shared by its engines."""

    def __init__(
        self,
        board: Board,
        accelerator: Accelerator | None,
        threads: int,
        cpus: tuple[int, ...] = (),
        refusals: tuple[str, ...] = (),
        was_named: bool = False,
        memory: Memory | None = None,
    ) -> None:
        self.board = board
        self.accelerator = accelerator
        """The NPU; `None` where the CPU computes everything."""
        self.threads = threads
        """CPU threads of one computation."""
        self.cpus = cpus
        """CPU cores that compute; empty for all."""
        self.refusals = refusals
        """Why runtimes that were asked for cannot be used."""
        self.memory = memory or Memory()
        """What the engines' models take, and may take."""
        self._was_named = was_named

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Find out what there is; never raises because there is no NPU."""
        board = Board.read(soc=settings.soc)
        cpus = cpus_for(settings.cpu_affinity, board)
        # Beyond four the windows of one sentence are too small to be shared out.
        threads = settings.threads or min(4, len(cpus or os.sched_getaffinity(0)))
        budget_mb = settings.memory_budget
        budget_bytes = default_budget_bytes() if budget_mb is None else budget_mb * MIB or None
        memory = Memory(budget_bytes, settings.idle_unload)
        refusals: list[str] = []
        for name, opened in _openers(settings, board, partial(_pin, cpus)).items():
            try:
                return cls(board, opened(), threads, cpus, tuple(refusals), memory=memory)
            except RuntimeUnavailable as error:
                refusals.append(f"{_NAMES[name]} is not used: {error}")
        was_named = settings.runtime in _NAMES
        return cls(board, None, threads, cpus, tuple(refusals), was_named, memory)

    def report(self) -> None:
        """Log what computes, and a line for each runtime that cannot be used."""
        # Who asked for an NPU by name should see that there is none; everything works all the same.
        level = logging.WARNING if self._was_named else logging.INFO
        for refusal in self.refusals:
            _LOGGER.log(level, "%s", refusal)
        if self.accelerator is not None:
            doubt = (
                "" if self.sees_device else ", if the driver is there: `wyoming-rknn doctor` sees no device it may use"
            )
            _LOGGER.info("%s computes on %d NPU cores%s", _NAMES[self.accelerator.name], self.accelerator.cores, doubt)

    @property
    def sees_device(self) -> bool:
        """Tell whether the kernel shows an NPU that this process may open."""
        return any(node.usable for node in self.board.devices)

    @property
    def npu_soc(self) -> str | None:
        """Return the SoC whose NPU is used; `None` where none is, or it is not known which."""
        return None if self.accelerator is None else self.board.soc

    @property
    def devices(self) -> Mapping[str, int]:
        """Return how many computations each device takes at once."""
        npu = {} if self.accelerator is None else {NPU: self.accelerator.cores}
        return {CPU: 1, LLM: 1} | npu

    def scheduler(self) -> Scheduler:
        """Return a scheduler for the devices, whose threads stay on the CPU cores that compute."""
        return Scheduler(self.devices, prepare_thread=partial(_pin, self.cpus))

    def load(self, model: Path | bytes) -> OnnxGraph:
        """Load an ONNX graph for the CPU. Raises `ModelFileMissing`, `ModelInvalid`."""
        return onnx.load(model, threads=self.threads, cpus=self.cpus)

    def close(self) -> None:
        """Let go of the NPU, and leave what is in memory as it is."""
        self.memory.close()
        if self.accelerator is not None:
            self.accelerator.close()


def _pin(cpus: tuple[int, ...]) -> None:
    """Keep the thread that calls this on `cpus`, or where it is if there are none."""
    if cpus:
        # A container may forbid what the machine has.
        with suppress(OSError):
            os.sched_setaffinity(0, cpus)


def _openers(
    settings: Settings, board: Board, prepare_thread: Callable[[], None]
) -> Mapping[str, Callable[[], Accelerator]]:
    cores = max(1, board.npu_cores)

    def librknnrt() -> Accelerator:
        from wyoming_rknn.runtime import rknn

        return rknn.open_accelerator(settings.rknn_library, cores, board.has_core_masks, prepare_thread=prepare_thread)

    def toolkit_lite() -> Accelerator:
        from wyoming_rknn.runtime import rknn_lite

        return rknn_lite.open_accelerator(cores, prepare_thread=prepare_thread)

    openers: dict[str, Callable[[], Accelerator]] = {RKNN: librknnrt, RKNN_LITE: toolkit_lite}
    if settings.runtime == ONNX:
        return {}
    if settings.runtime != AUTO:
        return {settings.runtime: openers[settings.runtime]}
    if board.soc is None:
        return dict.fromkeys(openers, _refuse)
    return openers


def _refuse() -> Accelerator:
    raise RuntimeUnavailable("no Rockchip SoC with an NPU is found; --soc names it where the device tree is hidden")
