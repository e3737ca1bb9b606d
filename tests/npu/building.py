"""Build the test double of librknnrt.so from its C source."""

import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent / "double"
_FLAGS = ("-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fPIC", "-fvisibility=hidden", "-pthread")


def build(folder: Path, compiler: str = "gcc", *flags: str) -> Path:
    """Compile the double into `folder` and return the library's path.

    Any GCC for 64-bit Linux will do, `aarch64-linux-gnu-gcc` too. Raises `RuntimeError` with the compiler's words, or
    `FileNotFoundError` where there is no such compiler.
    """
    library = folder / "librknnrt_double.so"
    sources = sorted(str(path) for path in SOURCE.glob("*.c"))
    command = [compiler, *_FLAGS, *flags, "-shared", "-o", str(library), *sources, "-ldl", "-lm"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return library
