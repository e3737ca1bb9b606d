import numpy as np
import pytest

from wyoming_rknn.convert.probe import SENTENCES, Probe


@pytest.fixture(scope="module")
def probe():
    return Probe()


@pytest.mark.parametrize("count", [1, 20, 52, 340])
def test_rows_fill_a_bucket_with_speech(probe, count):
    rows = probe.rows(count, "zh")
    assert rows.shape == (count, 560) and rows.dtype == np.float32
    # Silence would be -15.9, and so little is never heard for long.
    assert rows.max() > 15
    loud = rows.max(axis=1) > 5
    assert loud.mean() > 0.7


def test_all_sentences_are_as_loud(probe):
    assert [float(np.abs(part).max()) for part in probe._spoken] == pytest.approx([0.9] * 5)


def test_each_language_can_come_first(probe):
    assert list(probe.languages) == ["zh", "en", "ja", "ko", "yue"] == [language for language, _, _ in SENTENCES]
    first = [probe.rows(20, language) for language in probe.languages]
    assert all(np.abs(one - other).max() > 1 for i, one in enumerate(first) for other in first[:i])


def test_longer_speech_goes_on_as_the_shorter_one(probe):
    # The last row of the shorter one has nothing behind it.
    assert np.array_equal(probe.rows(20, "ja")[:-1], probe.rows(100, "ja")[:19])
