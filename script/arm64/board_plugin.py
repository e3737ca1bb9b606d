"""A pytest plugin for the emulated board: what tests build or convert was made on a PC, as for a real board.

$BOARD_RUNTIME is the runtime to test instead of librknnrt.
"""

import os
import shutil
from pathlib import Path

import pytest

LIBRARY = "/usr/lib/librknnrt.so"
VOICES = Path("/voices")
REAL_TIME = "needs computations in real time, which emulation has not"
LEFT_OUT = {
    "test_three_cores_are_nearly_three_times_as_quick_as_one": REAL_TIME,
    "test_a_newcomer_waits_for_one_window_at_most": REAL_TIME,
    "test_a_second_client_starts_while_a_long_text_is_spoken": REAL_TIME,
}
LEFT_OUT_WITH_LITE = "ends_in_speech_from_the_cpu_and_one_warning[failing]"
"""The one warning is another there, which tests/npu/test_rknn_lite.py looks at: the package hides failed runs."""


def pytest_configure() -> None:
    """Let what converts voices for tests copy them."""
    from npu import voices

    os.environ["WYOMING_RKNN_TEST_DOUBLE"] = LIBRARY

    def copy(source: Path, target: str, out: Path, *_: object) -> None:
        if not (VOICES / source.stem).is_dir():
            pytest.skip(f"{source.stem} was not converted on the PC")
        shutil.copytree(VOICES / source.stem, out)

    voices.convert_voice = copy
    if runtime := os.environ.get("BOARD_RUNTIME"):
        settings = voices.npu_settings
        voices.npu_settings = lambda *folders, **more: settings(*folders, **({"runtime": runtime} | more))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what needs more speed than there is."""
    for item in items:
        name = item.name.split("[")[0]
        if name in LEFT_OUT:
            item.add_marker(pytest.mark.skip(LEFT_OUT[name]))
        elif os.environ.get("BOARD_RUNTIME") == "rknn-lite" and item.name.endswith(LEFT_OUT_WITH_LITE):
            item.add_marker(pytest.mark.skip("rknn-toolkit-lite2 hides failed runs"))
