"""The vendor's toolkit for tests, in an environment made by the code that `models convert` runs; import the fixtures.

pytest keeps a fixture apart for each module that imports it, so what they share is kept here.
"""

import atexit
import functools
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from wyoming_rknn.convert.toolkit import VendorToolkit
from wyoming_rknn.errors import ConversionError


@pytest.fixture(scope="session")
def toolkit_cache() -> Path:
    """Return the folder of the environment: $WYOMING_RKNN_CACHE_DIR, else one that goes when the tests end."""
    return _cache()


@pytest.fixture(scope="session")
def vendor_toolkit(toolkit_cache: Path) -> VendorToolkit:
    """Return rknn-toolkit2 2.3.2, ready to use; skips where it cannot be had.

    With WYOMING_RKNN_REQUIRE_TOOLKIT=1 it fails there, except on machines that the toolkit is not made for.
    """
    return obtain(toolkit_cache)


def obtain(cache: Path) -> VendorToolkit:
    """Return the toolkit that is made below `cache`; skips or fails as `vendor_toolkit` does."""
    toolkit = _toolkit(cache)
    if isinstance(toolkit, VendorToolkit):
        return toolkit
    is_required = os.environ.get("WYOMING_RKNN_REQUIRE_TOOLKIT") == "1"
    if is_required and (sys.platform, platform.machine()) == ("linux", "x86_64"):
        raise toolkit
    pytest.skip(f"no rknn-toolkit2: {toolkit}")


@functools.cache
def _cache() -> Path:
    if chosen := os.environ.get("WYOMING_RKNN_CACHE_DIR"):
        return Path(chosen)
    # pytest's own folders stay for a while, and this takes half a gigabyte.
    folder = Path(tempfile.mkdtemp(prefix="wyoming-rknn-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def _toolkit(cache: Path) -> VendorToolkit | ConversionError:
    """Return the toolkit or why there is none, which is looked for but once."""
    try:
        return VendorToolkit.prepared("2.3.2", cache)
    except ConversionError as error:
        return error
