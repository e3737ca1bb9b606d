"""The vendor's toolkit for tests, in an environment made by the code that `models convert` runs; import the fixtures.

pytest keeps a fixture apart for each module that imports it, so what they share is kept here.
"""

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from wyoming_rknn.convert.toolkit import VendorToolkit
from wyoming_rknn.errors import ConversionError


@pytest.fixture(scope="session")
def toolkit_cache() -> Path:
    """Return the cache folder that keeps the environment: $WYOMING_RKNN_CACHE_DIR, else one for this session."""
    return _cache()


@pytest.fixture(scope="session")
def vendor_toolkit(toolkit_cache: Path) -> VendorToolkit:
    """Return rknn-toolkit2 2.3.2, ready to use; skips where it cannot be had."""
    toolkit = _toolkit(toolkit_cache)
    if isinstance(toolkit, str):
        pytest.skip(f"no rknn-toolkit2: {toolkit}")
    return toolkit


@functools.cache
def _cache() -> Path:
    if chosen := os.environ.get("WYOMING_RKNN_CACHE_DIR"):
        return Path(chosen)
    # pytest's own folders stay for a while, and this takes half a gigabyte.
    folder = Path(tempfile.mkdtemp(prefix="wyoming-rknn-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@functools.cache
def _toolkit(cache: Path) -> VendorToolkit | str:
    """Return the toolkit or why there is none, which is looked for but once."""
    try:
        return VendorToolkit.prepared("2.3.2", cache)
    except ConversionError as error:
        return str(error)
