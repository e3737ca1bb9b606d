"""What can be read from the log of the vendor's toolkit, since its return values tell nothing."""

import re
from dataclasses import dataclass
from typing import Self

_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_REGTASK = "REGTASK"
_HARMLESS = "Unkown op target: 0"
"""Printed (sic) on many good builds: a reshape at the edge was left to the CPU."""
_ERROR = re.compile(r"E (?:RKNN: \[[^]]*\] )?(.*\S)")
# ID OpType DataType Target InputShape OutputShape Cycles(DDR/NPU/Total) [SparseRatio] RW(KB) FullName
_LAYER = re.compile(
    r"D RKNN: \[[^]]*\] \d+ +(?P<type>\S+) +\S+ +(?P<target>[A-Z]+) +\S.* \d+/\d+/\d+ +(?:\S+ +)*(?P<name>\S+)"
)
_EDGES = ("InputOperator", "OutputOperator")


@dataclass(frozen=True, slots=True)
class Layer:
    """One line of the compiler's layer plan."""

    type: str
    target: str
    """"NPU" or "CPU"."""
    name: str


@dataclass(frozen=True, slots=True)
class CompilerLog:
    """What matters of a log."""

    regtask: int
    """Lines that say that a value did not fit into a register of the NPU: such a build is not to be trusted."""
    errors: tuple[str, ...]
    """Other error messages, without the harmless one."""
    layers: tuple[Layer, ...]
    """The layer plan without inputs and outputs; empty unless the build was verbose."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a log as rknn-toolkit2 2.3.2 and 2.5.0 print it."""
        regtask = 0
        errors: list[str] = []
        layers: list[Layer] = []
        # Progress bars end in carriage returns, and messages of native code may come right behind.
        for line in re.split(r"[\r\n]+", _ANSI.sub("", text)):
            if _REGTASK in line:
                regtask += 1
            elif match := _LAYER.match(line):
                if match["type"] not in _EDGES:
                    layers.append(Layer(match["type"], match["target"], match["name"]))
            elif (match := _ERROR.match(line)) and _HARMLESS not in line:
                errors.append(match[1])
        return cls(regtask, tuple(errors), tuple(layers))

    @property
    def cpu_layers(self) -> tuple[str, ...]:
        """Return the names of the layers that were not given to the NPU."""
        return tuple(layer.name for layer in self.layers if layer.target != "NPU")
