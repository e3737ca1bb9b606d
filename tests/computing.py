"""What computes graphs in tests."""

from wyoming_rknn.runtime.board import Board
from wyoming_rknn.runtime.runtimes import Runtimes


def on_cpu(threads=1):
    """Return the CPU alone."""
    return Runtimes(Board(), None, threads)
