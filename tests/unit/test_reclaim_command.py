"""The command `reclaim`, as far as it needs no build."""

import os
import signal
import time

import pytest

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import Cancelled
from packer_plugin_osc_chroot.reclaim.command import cancelled_by_interrupt


@pytest.mark.timeout(20)
def test_an_interrupt_amid_the_token_s_own_work_does_not_hang() -> None:
    token = CancelToken(reason="interrupted")
    before = signal.getsignal(signal.SIGINT)
    with cancelled_by_interrupt(token):
        with token._lock:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        with pytest.raises(Cancelled, match="interrupted"):
            token.sleep(10)
    assert signal.getsignal(signal.SIGINT) is before
