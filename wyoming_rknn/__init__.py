"""Streaming Wyoming speech server for Rockchip boards and any x86-64 or Arm machine."""

__version__ = "0.1.0"
