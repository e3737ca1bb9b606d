"""Fetch wheels for aarch64, and nothing but wheels: a requirement, or what it needs, that has none is a failure.

    python script/arm64/wheels.py PYTHON_VERSION OUT REQUIREMENT...

"." and ".[extra]" stand for what pyproject.toml asks for. Runs on any machine: `pip download` is told the platform, and
the machine and the Python version that requirements ask about ("; python_version < '3.12'") are made the board's.
"""

import platform
import runpy
import sys
import tomllib
from pathlib import Path

MACHINE = "aarch64"
GLIBC_MINORS = range(17, 29)
"""manylinux2014 to manylinux_2_28: glibc 2.28 is older than that of any system that Python 3.11 comes with."""


def main() -> None:
    """Read the command line and hand over to pip."""
    version, out, *requirements = sys.argv[1:]
    major, minor = version.split(".")
    platforms = [f"manylinux_2_{glibc}_{MACHINE}" for glibc in GLIBC_MINORS] + [f"manylinux2014_{MACHINE}"]
    platform.machine = lambda: MACHINE
    platform.python_version = lambda: f"{version}.0"
    platform.python_version_tuple = lambda: (major, minor, "0")
    sys.argv = ["pip", "download", "--quiet", "--quiet", "--only-binary=:all:", "--implementation=cp"]
    sys.argv += [f"--python-version={version}", f"--dest={out}", *(f"--platform={name}" for name in platforms)]
    sys.argv += [name for requirement in requirements for name in expand(requirement)]
    runpy.run_module("pip", run_name="__main__", alter_sys=True)


def expand(requirement: str) -> list[str]:
    """Put what pyproject.toml asks for in the place of "." and ".[extra]"."""
    if not requirement.startswith("."):
        return [requirement]
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = list(project["dependencies"])
    if extra := requirement.strip(".[]"):
        names += project["optional-dependencies"][extra]
    return names


if __name__ == "__main__":
    main()
