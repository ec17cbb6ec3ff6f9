"""The token: a cancel ends waits at once, and callbacks run exactly when they should."""

import threading
import time

import pytest

from packer_plugin_osc_chroot.cancel import CancelToken, following
from packer_plugin_osc_chroot.errors import Cancelled


def test_sleep_ends_at_once() -> None:
    token = CancelToken()
    threading.Timer(0.05, token.cancel).start()
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        token.sleep(10)
    assert time.monotonic() - begun < 1


def test_deadline() -> None:
    token = CancelToken(deadline=0.05, reason="too long")
    with pytest.raises(Cancelled, match="too long"):
        token.sleep(10)


def test_one_that_follows_another_says_why_that_ended() -> None:
    token, own = CancelToken(reason="interrupted"), CancelToken(deadline=60, reason="too long")
    with following(token, own):
        token.cancel()
    with pytest.raises(Cancelled, match="interrupted"):
        own.check()


def test_a_deadline_counts_anew() -> None:
    token = CancelToken(deadline=0.3)
    token.sleep(0.2)
    token.renew()
    token.sleep(0.2)
    with pytest.raises(Cancelled):
        token.sleep(10)
    token.renew()
    assert token.cancelled, "what has passed stays so"


def test_callbacks() -> None:
    token = CancelToken()
    called: list[str] = []
    with token.on_cancel(lambda: called.append("left")):
        pass
    with token.on_cancel(lambda: called.append("inside")):
        token.cancel("why")
        token.cancel("again")
    with token.on_cancel(lambda: called.append("late")):
        pass
    assert called == ["inside", "late"]
    with pytest.raises(Cancelled, match="why"):
        token.check()
