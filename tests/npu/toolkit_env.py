"""The vendor's toolkit for tests, in an environment made by the code that `models convert` runs; import the fixture."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from wyoming_rknn.convert.toolkit import VendorToolkit
from wyoming_rknn.errors import ConversionError


@pytest.fixture(scope="session")
def toolkit_cache() -> Iterator[Path]:
    """Return the cache folder that keeps the environment: $WYOMING_RKNN_CACHE_DIR, else one for this session."""
    if chosen := os.environ.get("WYOMING_RKNN_CACHE_DIR"):
        yield Path(chosen)
        return
    # pytest's own folders stay for a while, and this takes half a gigabyte.
    folder = Path(tempfile.mkdtemp(prefix="wyoming-rknn-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def vendor_toolkit(toolkit_cache: Path) -> VendorToolkit:
    """Return rknn-toolkit2 2.3.2, ready to use; skips where it cannot be had."""
    try:
        return VendorToolkit.prepared("2.3.2", toolkit_cache)
    except ConversionError as error:
        pytest.skip(f"no rknn-toolkit2: {error}")
