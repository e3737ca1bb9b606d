"""How a graph runs: accelerators, devices and their schedule. Knows nothing of speech."""
