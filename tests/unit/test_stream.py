"""One Run's stream: how long a cancelled hook is waited for."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import cast

import pytest

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.context import Communicator
from packer_plugin_osc_chroot.contract import plugin_pb2 as pb
from packer_plugin_osc_chroot.errors import Cancelled
from packer_plugin_osc_chroot.host.process import KILL_GRACE, TERM_GRACE
from packer_plugin_osc_chroot.service.stream import RunStream

NOWHERE = cast(Communicator, None)


class Shim:
    """The other end of a stream."""

    def __init__(self, token: CancelToken) -> None:
        self.stream = RunStream(token, lambda _: "communicator")
        self._requests: queue.SimpleQueue[pb.RunRequest | None] = queue.SimpleQueue()
        threading.Thread(target=self.stream.take_answers, args=(self._sent(),), daemon=True).start()

    def _sent(self) -> Iterator[pb.RunRequest]:
        while (request := self._requests.get()) is not None:
            yield request

    def answer(self) -> None:
        self._requests.put(pb.RunRequest(provision_result=pb.ProvisionResult(id=1)))


def test_cancelled_hook_is_waited_for_while_its_commands_are_ended() -> None:
    """A command may take as long as its grace to end; only then the root can be unmounted."""
    token = CancelToken()
    shim = Shim(token)
    token.cancel()
    ends = TERM_GRACE + KILL_GRACE - 0.2
    begun = time.monotonic()
    threading.Timer(ends, shim.answer).start()
    with pytest.raises(Cancelled):
        shim.stream.run(NOWHERE, {})
    assert time.monotonic() - begun > ends


def test_cancelled_hook_that_goes_on_is_left() -> None:
    token = CancelToken()
    threading.Timer(0.1, token.cancel).start()
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        Shim(token).stream.run(NOWHERE, {})
    assert time.monotonic() - begun < TERM_GRACE + KILL_GRACE + 0.6


def test_a_question_that_a_cancel_ends_says_why() -> None:
    token = CancelToken()
    threading.Timer(0.1, lambda: token.cancel("Packer is gone")).start()
    with pytest.raises(Cancelled, match="^Packer is gone$"):
        Shim(token).stream.ask("Well?")


def test_hook_that_ends_is_not_waited_for_any_longer() -> None:
    token = CancelToken()
    shim = Shim(token)
    token.cancel()
    threading.Timer(0.1, shim.answer).start()
    begun = time.monotonic()
    with pytest.raises(Cancelled):
        shim.stream.run(NOWHERE, {})
    assert time.monotonic() - begun < TERM_GRACE + KILL_GRACE
