"""Models on an NPU, proven before they are used."""
