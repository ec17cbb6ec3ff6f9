"""What a build says: bounded, in order, and not in the way of a cancel."""

import threading
import time

import pytest

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.contract import plugin_pb2 as pb
from packer_plugin_osc_chroot.service.outbox import LIMIT
from packer_plugin_osc_chroot.service.stream import RunStream

LINES = 30_000


class Flood:
    """A command that prints without end, and a Packer that shows what it gets."""

    def __init__(self) -> None:
        self.token = CancelToken()
        self.stream = RunStream(self.token, lambda _: "")
        self.said = 0
        self.shown: list[str] = []
        self.most = 0
        threading.Thread(target=self._say, daemon=True).start()

    def _say(self) -> None:
        for number in range(LINES):
            self.stream.message(f"line {number}")
            self.said = number + 1
            self.most = max(self.most, self.stream._outbox._size)
            if self.token.cancelled:
                break
        self.stream.say("Taking back what was made...")
        self.stream.error("an error")
        self.stream.finish()

    def show(self, *, seconds: float, slowly: float = 0.0) -> None:
        """What Packer shows until the end, or for that long."""
        deadline = time.monotonic() + seconds
        for event in self.stream.events():
            self.shown.append(event.ui.text)
            time.sleep(slowly)
            if time.monotonic() > deadline:
                return


@pytest.mark.timeout(30)
def test_a_flood_waits_for_who_shows_it_and_a_cancel_drops_it() -> None:
    flood = Flood()
    flood.show(seconds=0.3, slowly=0.001)
    assert flood.said < LINES / 3
    flood.token.cancel()
    begun = time.monotonic()
    before = len(flood.shown)
    flood.show(seconds=10, slowly=0.001)
    assert time.monotonic() - begun < 0.5
    *lines, say, error = flood.shown[before:]
    assert (say, error) == ("Taking back what was made...", "an error")
    (dropped,) = (each for each in lines if "lines are not shown: the build was cancelled" in each)
    assert int(dropped.split()[0].lstrip("(")) + before + len(lines) - 1 == flood.said
    assert flood.most < LIMIT + 1000


@pytest.mark.timeout(30)
def test_nothing_is_lost_or_out_of_order_without_a_cancel() -> None:
    flood = Flood()
    flood.show(seconds=30)
    assert flood.shown[:LINES] == [f"    line {number}" for number in range(LINES)]
    assert flood.most < LIMIT + 1000


@pytest.mark.timeout(30)
def test_who_is_left_alone_does_not_wait() -> None:
    flood = Flood()
    time.sleep(0.2)
    assert flood.said < LINES
    flood.stream.abandon()
    assert list(flood.stream.events()) == []
    deadline = time.monotonic() + 20
    while flood.said < LINES:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_asks_for_something_never_waits_behind_details_that_nobody_wants() -> None:
    token = CancelToken()
    stream = RunStream(token, lambda _: "")
    token.cancel()
    for _ in range(LINES):
        stream.message("x" * 100)
    stream.send(pb.RunEvent(cancel_provision=pb.CancelProvision(id=1)))
    stream.finish()
    events = list(stream.events())
    assert events[-1].WhichOneof("event") == "cancel_provision"
    assert sum(event.ByteSize() for event in events) < LIMIT
    assert any("lines are not shown" in event.ui.text for event in events)


def test_control_characters_and_other_bytes_are_harmless() -> None:
    stream = RunStream(CancelToken(), lambda _: "")
    stream.say("a\x1b[2Jb\tc\nd\x9be\udcffé\u202e")
    stream.finish()
    (event,) = stream.events()
    assert event.ui.text == "a?[2Jb\tc\nd?e?é?"
