"""Waiting for states: targets, failures, deadlines, resources that come late or go."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud import wait as waiting
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


def test_a_failed_state() -> None:
    with pytest.raises(BuildError, match="volume vol-1: is in state error, expected available"):
        wait(iter(["creating", "error"]), failed=("error",))


def test_the_deadline() -> None:
    with pytest.raises(BuildError, match="still creating after 0 s"):
        wait(iter(lambda: "creating", ""), deadline=0.1)


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
def test_a_conflict_after_a_lost_answer_means_that_it_was_done() -> None:
    answers = [_refusal(503), _refusal(409)]

    def find() -> str | None:
        return None if answers else "ami-1"

    def send() -> str:
        raise answers.pop(0)

    assert sent_once(send, find, token=CancelToken()) == "ami-1"


def test_a_clear_refusal_is_neither_looked_after_nor_repeated() -> None:
    def send() -> str:
        raise _refusal(409)

    def find() -> str | None:
        raise AssertionError("not to be called")

    with pytest.raises(CloudError, match="refused"):
        sent_once(send, find, token=CancelToken())


def test_cancel() -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        wait(iter(["creating"]), token=token)


def _refusal(status: int) -> CloudError:
    return CloudError("refused", action="DeleteX", status=status)
