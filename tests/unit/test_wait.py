"""Waiting for states: targets, failures, deadlines, resources that come late or go."""

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud import wait as waiting
from packer_plugin_osc_chroot.cloud.pace import Pace
from packer_plugin_osc_chroot.cloud.wait import insist, sent_once, wait_for
from packer_plugin_osc_chroot.errors import BuildError, Cancelled, CloudError
from packer_plugin_osc_chroot.ui import RecordingUi


def wait(states: Iterator[str | None], **options: Any) -> Any:
    def read() -> dict[str, str] | None:
        state = next(states)
        return None if state is None else {"State": state}

    given: dict[str, Any] = {
        "target": ("available",),
        "deadline": 10.0,
        "token": CancelToken(),
        "ui": RecordingUi(),
        **options,
    }
    return wait_for("volume vol-1", read, **given)


def test_until_the_target() -> None:
    assert wait(iter(["creating", "available"])) == {"State": "available"}


def test_a_resource_that_is_not_shown_yet() -> None:
    assert wait(iter([None, None, "available"])) == {"State": "available"}


def test_gone_is_a_state_where_asked_for() -> None:
    assert wait(iter(["detaching", None]), target=("gone",), missing_is="gone") == {}


@pytest.mark.parametrize("progress", [-1, 101, "50", None, 10**400])
def test_a_progress_that_cannot_be_is_none(progress: Any) -> None:
    shown = iter([{"State": "creating", "Progress": progress}, {"State": "available"}])
    wait_for(
        "volume vol-1",
        lambda: next(shown),
        target=("available",),
        deadline=10.0,
        token=CancelToken(),
        ui=RecordingUi(),
    )
    assert next(shown, None) is None


def test_a_failed_state() -> None:
    with pytest.raises(BuildError, match="volume vol-1: is in state error, expected available"):
        wait(iter(["creating", "error"]), failed=("error",))


def test_the_deadline() -> None:
    with pytest.raises(BuildError, match="still creating after 0 s.*available$"):
        wait(iter(lambda: "creating", ""), deadline=0.1)
    with pytest.raises(BuildError, match="still creating after 0 s.*Set volume_timeout higher"):
        wait(iter(lambda: "creating", ""), deadline=0.1, option="volume_timeout")


def test_the_deadline_is_noticed_however_late_the_next_look_would_be() -> None:
    begun = time.monotonic()
    with pytest.raises(BuildError, match="still creating after 1 s"):
        wait(iter(lambda: "creating", ""), deadline=1.0, pace=Pace([1000.0] * 4))
    assert 1.0 < time.monotonic() - begun < 2.5


def test_one_look_that_misses_it_is_no_vanishing(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the look before is ago: reads are eventually consistent."""
    monkeypatch.setattr(waiting, "SETTLE_SECONDS", 0.1)
    wait(iter(["creating", None, "creating", None, "available"]))
    with pytest.raises(BuildError, match="has vanished .*Somebody else"):
        wait(iter(["creating", None, None, "available"]))


def test_the_end_is_noticed_soon_and_few_questions_are_asked() -> None:
    begun = time.monotonic()
    asked = 0

    def states() -> Iterator[str]:
        nonlocal asked
        while True:
            asked += 1
            yield "available" if time.monotonic() - begun > 1.5 else "creating"

    wait(states())
    assert time.monotonic() - begun < 1.5 + 0.4
    assert asked < 15


def test_insist_until_taken() -> None:
    answers = [_refusal(409), _refusal(400), None]

    def send() -> None:
        if (answer := answers.pop(0)) is not None:
            raise answer

    insist(send, is_done=lambda: False, token=CancelToken())
    assert answers == []


def test_insist_ends_with_the_last_refusal() -> None:
    def send() -> None:
        raise _refusal(409)

    with pytest.raises(CloudError, match="refused"):
        insist(send, is_done=lambda: False, token=CancelToken(deadline=0.2))


def test_insist_ends_also_where_the_token_has_no_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "UNDO_SECONDS", 0.5)
    begun = time.monotonic()

    def send() -> None:
        raise _refusal(409)

    def held_up() -> str:
        return "snapshot snap-1 is pending" if time.monotonic() - begun < 1.0 else ""

    with pytest.raises(CloudError, match="refused"):
        insist(send, is_done=lambda: False, held_up=held_up, token=CancelToken())
    assert 1.0 < time.monotonic() - begun < 4.0


@pytest.mark.parametrize("where", ["send", "is_done", "held_up"])
def test_insist_keeps_the_last_refusal_wherever_the_deadline_passes(where: str) -> None:
    token = CancelToken()
    calls: list[str] = []

    def call(name: str) -> None:
        calls.append(name)
        if name == where and (name != "send" or calls.count("send") > 1):
            token.cancel()
            token.check()

    def send() -> None:
        call("send")
        raise _refusal(409)

    def is_done() -> bool:
        call("is_done")
        return False

    def held_up() -> str:
        call("held_up")
        return ""

    with pytest.raises(CloudError, match="refused"):
        insist(send, is_done=is_done, held_up=held_up, token=token)


def test_insist_is_cancelled_where_nothing_was_refused() -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        insist(token.check, is_done=lambda: False, token=token)


def test_the_deadline_does_not_count_while_it_is_known_what_holds_it_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(waiting, "_REPORT_EVERY", 0.3)
    begun = time.monotonic()
    told: list[str] = []

    def held_up() -> str:
        return "snapshot snap-1 is pending" if time.monotonic() - begun < 1.5 else ""

    def send() -> None:
        raise _refusal(409)

    with pytest.raises(CloudError, match="refused"):
        insist(
            send,
            is_done=lambda: False,
            held_up=held_up,
            tell=told.append,
            token=CancelToken(deadline=0.7),
        )
    assert 1.5 < time.monotonic() - begun < 3.5
    assert 1 <= len(told) <= 5
    assert told[0].startswith("DeleteX is refused while snapshot snap-1 is pending (")


def test_what_held_it_up_may_end_between_a_refusal_and_the_look() -> None:
    """The deadline counts from that look, and the next call is made soon."""
    looks = iter(["snapshot snap-1 is pending"] * 5 + [""] * 9)
    token = CancelToken(deadline=1.0)
    sent: list[float] = []

    def send() -> None:
        sent.append(time.monotonic())
        if len(sent) <= 6:
            raise _refusal(409)

    insist(send, is_done=lambda: False, held_up=lambda: next(looks), token=token)
    assert len(sent) == 7
    assert sent[6] - sent[5] < 0.4 < sent[5] - sent[4]


def test_what_holds_it_up_does_so_only_for_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LONGEST_SECONDS", 0.5)

    def send() -> None:
        raise _refusal(409)

    begun = time.monotonic()
    with pytest.raises(CloudError, match="refused"):
        insist(send, is_done=lambda: False, held_up=lambda: "x", token=CancelToken(deadline=0.4))
    assert 0.5 < time.monotonic() - begun < 2.0


@pytest.mark.parametrize("status", [401, 403])
def test_insist_does_not_repeat_what_is_forbidden(status: int) -> None:
    tries = []

    def send() -> None:
        tries.append(1)
        raise _refusal(status)

    with pytest.raises(CloudError):
        insist(send, is_done=lambda: False, token=CancelToken())
    assert len(tries) == 1


def test_insist_takes_a_missing_resource_for_done() -> None:
    def send() -> None:
        raise CloudError("gone", action="DeleteX", status=400, types=("InvalidResource",))

    insist(send, is_done=lambda: False, token=CancelToken())


@pytest.fixture
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SETTLE_SECONDS", 0.3)
    monkeypatch.setattr(waiting, "_LOOK_EVERY", 0.05)


@pytest.mark.usefixtures("quick_looks")
def test_a_call_that_was_done_without_an_answer_is_found_and_not_sent_again() -> None:
    sent: list[str] = []
    looks = iter([None, None, "ami-1"])

    def send() -> str:
        sent.append("x")
        raise _refusal(503)

    assert sent_once(send, lambda: next(looks), token=CancelToken()) == "ami-1"
    assert len(sent) == 1


@pytest.mark.usefixtures("quick_looks")
def test_a_call_that_was_not_done_is_sent_again() -> None:
    answers: list[CloudError | str] = [_refusal(503), _refusal(0), "ami-1"]

    def send() -> str:
        answer = answers.pop(0)
        if isinstance(answer, CloudError):
            raise answer
        return answer

    assert sent_once(send, lambda: None, token=CancelToken()) == "ami-1"


@pytest.mark.usefixtures("quick_looks")
@pytest.mark.parametrize("status", [400, 409, 429])
def test_a_refusal_after_a_lost_answer_may_mean_that_it_was_done(status: int) -> None:
    answers = [_refusal(503), _refusal(status)]

    def find() -> str | None:
        return None if answers else "ami-1"

    def send() -> str:
        raise answers.pop(0)

    assert sent_once(send, find, token=CancelToken()) == "ami-1"


@pytest.mark.usefixtures("quick_looks")
@pytest.mark.parametrize("status", [400, 409, 429])
def test_a_refusal_after_a_lost_answer_leaves_in_doubt_what_is_not_found(status: int) -> None:
    answers = [_refusal(503), _refusal(status)]

    def send() -> str:
        raise answers.pop(0)

    with pytest.raises(CloudError) as caught:
        sent_once(send, lambda: None, token=CancelToken())
    assert (caught.value.status, caught.value.maybe_done) == (status, True)


@pytest.mark.parametrize("error", [Cancelled(), CloudError("no", action="ReadX", status=403)])
def test_a_look_that_fails_leaves_it_in_doubt(error: BuildError) -> None:
    def send() -> str:
        raise _refusal(503)

    def find() -> str | None:
        raise error

    with pytest.raises(BuildError) as caught:
        sent_once(send, find, token=CancelToken())
    assert caught.value is error and error.maybe_done


def test_a_clear_refusal_is_neither_looked_after_nor_repeated() -> None:
    def send() -> str:
        raise _refusal(409)

    def find() -> str | None:
        raise AssertionError("not to be called")

    with pytest.raises(CloudError, match="refused") as caught:
        sent_once(send, find, token=CancelToken())
    assert not caught.value.maybe_done


def test_cancel() -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        wait(iter(["creating"]), token=token)


def _refusal(status: int) -> CloudError:
    return CloudError("refused", action="DeleteX", status=status)


def test_what_was_shown_and_is_gone_has_vanished(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SETTLE_SECONDS", 0.3)
    begun = time.monotonic()
    shown = itertools.chain(["creating"], itertools.repeat(None))
    with pytest.raises(BuildError, match=r"volume vol-1: has vanished \(it was creating"):
        wait(shown)
    assert time.monotonic() - begun < 1.5


def test_a_stale_read_is_no_vanishing() -> None:
    assert wait(iter(["creating", None, "creating", None, "available"])) == {"State": "available"}


def test_states_that_go_backwards() -> None:
    assert wait(iter(["creating", "", "creating", "available"])) == {"State": "available"}
