import math

import numpy as np
import pytest

from wyoming_rknn.convert.agreement import compare
from wyoming_rknn.errors import ConversionError
from wyoming_rknn.npu.selftest import Golden

SOUND = np.sin(np.arange(1000, dtype=np.float32)).reshape(1, 1, 1000)
GOLDEN = Golden({"z": SOUND}, {"output": SOUND, "more": SOUND}, 45.0)


def noisy(snr_db):
    noise = np.random.default_rng(1).normal(size=SOUND.shape)
    noise *= np.sqrt(np.mean(SOUND**2) / np.mean(noise**2) * 10 ** (-snr_db / 10))
    return (SOUND + noise).astype(np.float32)


def test_the_worst_output_counts():
    found = compare("x", GOLDEN, {"output": noisy(70), "more": noisy(50)})
    assert found.snr_db == pytest.approx(50, abs=0.1)
    assert found.max_abs_error == pytest.approx(np.abs(noisy(50) - SOUND).max())


def test_equal_outputs_have_no_noise():
    found = compare("x", GOLDEN, {"output": SOUND, "more": SOUND})
    assert (found.snr_db, found.max_abs_error) == (math.inf, 0.0)


def test_axes_of_size_one_do_not_matter():
    compare("x", GOLDEN, {"output": SOUND.reshape(1, 1000), "more": SOUND.reshape(1, 1, 1, 1000)})


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (noisy(44), r"the voice, simulated, differs .* 44\.\d dB, at least 45 dB are due; try the other toolkit"),
        (np.where(SOUND > 0.9, np.nan, SOUND), "NaN or infinity.* exceed 65504.*CPU"),
        (np.where(SOUND > 0.9, np.inf, SOUND), "NaN or infinity"),
        (np.zeros_like(SOUND), "nothing but zeros"),
        (SOUND[..., :-1], r"the shape \[1, 1, 999\]"),
        (None, "has no output 'output'"),
    ],
)
def test_what_cannot_be_right_is_refused(result, message):
    simulated = {"more": SOUND} if result is None else {"output": result, "more": SOUND}
    with pytest.raises(ConversionError, match=message):
        compare("the voice", GOLDEN, simulated)
