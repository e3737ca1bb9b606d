"""Build the test double of librkllmrt.so from its C source."""

import subprocess
from pathlib import Path

SOURCE = Path(__file__).parent / "librkllmrt_double.c"
_FLAGS = ("-std=gnu11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fPIC", "-fvisibility=hidden", "-pthread")


def build(path: Path, version: str | None, *flags: str, abi: int | None = None, compiler: str = "gcc") -> Path:
    """Compile the double into `path`, which says that it is `version`, with the interface of that one or of `abi`.

    Raises `RuntimeError` with the compiler's words, or `FileNotFoundError` where there is no such compiler.
    """
    layout = abi or (130 if version and version.startswith("1.3") else 123)
    told = () if version is None else (f'-DRKLLM_VERSION="{version}"',)
    command = [
        compiler,
        *_FLAGS,
        f"-DRKLLM_ABI={layout}",
        *told,
        *flags,
        "-shared",
        "-o",
        str(path),
        str(SOURCE),
        "-lm",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return path
