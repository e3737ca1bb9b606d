import platform

import pytest
from npu import toolkit_env

from wyoming_rknn.convert.toolkit import VendorToolkit
from wyoming_rknn.errors import ConversionError


@pytest.fixture
def broken(monkeypatch):
    """Let pip find no toolkit."""

    def prepared(*_):
        raise ConversionError("pip could not install the toolkit")

    monkeypatch.setattr(VendorToolkit, "prepared", prepared)
    monkeypatch.delenv("WYOMING_RKNN_REQUIRE_TOOLKIT", raising=False)


def test_a_toolkit_that_cannot_be_had_is_a_skip(broken, tmp_path):
    with pytest.raises(pytest.skip.Exception, match="no rknn-toolkit2: pip could not install"):
        toolkit_env.obtain(tmp_path)


def test_a_toolkit_that_is_required_is_no_skip(broken, tmp_path, monkeypatch):
    monkeypatch.setenv("WYOMING_RKNN_REQUIRE_TOOLKIT", "1")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    # A skip that goes through would make this test one.
    with pytest.raises((ConversionError, pytest.skip.Exception)) as caught:
        toolkit_env.obtain(tmp_path)
    assert caught.type is ConversionError
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(pytest.skip.Exception, match="no rknn-toolkit2"):
        toolkit_env.obtain(tmp_path)
