import pytest

from wyoming_rknn.errors import Cancelled
from wyoming_rknn.runtime.cancellation import Cancellable


def test_calls_back_when_it_is_given_up():
    work, calls = Cancellable(), []
    with work.on_cancel(lambda: calls.append(1)):
        assert not calls
        work.cancel()
        assert calls == [1]
        work.cancel()
    assert calls == [1]
    assert work.cancelled


def test_calls_back_at_once_if_it_was_given_up_before():
    work, calls = Cancellable(), []
    work.cancel()
    with work.on_cancel(lambda: calls.append(1)):
        assert calls == [1]


def test_calls_nobody_back_afterwards():
    work, calls = Cancellable(), []
    with work.on_cancel(lambda: calls.append(1)):
        pass
    work.cancel()
    assert not calls


def test_check_raises_once_it_is_given_up():
    work = Cancellable()
    work.check()
    work.cancel()
    with pytest.raises(Cancelled):
        work.check()
