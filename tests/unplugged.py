"""Programs without a network, and a record of what they do."""

import shutil
import subprocess

import pytest


def without_network() -> list[str]:
    """Return the words before a command that give it a network of its own, without any way out; skip if they cannot."""
    for words in (["unshare", "--map-root-user", "--net"], ["unshare", "--net"]):
        if shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True).returncode == 0:
            return words
    pytest.skip("network namespaces are not permitted here")


def recorded() -> list[str]:
    """Return the words before a command that write down its system calls, in short; skip if they cannot."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed, so nobody can see what a process does")
    return ["strace", "--follow-forks", "--quiet=all", "--string-limit=500"]
