"""When waits look: how soon an end is noticed, and how few looks that takes."""

import time
from collections.abc import Sequence

import pytest

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.pace import Pace, first_look, next_look, usual

# A call of the API takes so long.
CALL = 0.05


def looks(
    duration: float,
    earlier: Sequence[float] = (),
    *,
    progress: bool = False,
    sign: bool = False,
) -> list[float]:
    """The times of the looks of a wait of that many seconds, the last one at or after its end."""
    at = first_look(earlier, signs=sign)
    times = [at]
    while at < duration:
        percent = int(at / duration * 100) if progress else None
        pause = next_look(at, earlier=earlier, progress=percent, signs=sign)
        assert pause > 0
        at += max(pause, CALL)
        times.append(at)
    return times


def late(times: list[float], duration: float) -> float:
    return times[-1] - duration


@pytest.mark.parametrize("duration", [0.02, 0.3, 1.0, 1.5, 2.6, 3.0, 3.5, 9.9, 21.0, 300.0])
def test_an_end_is_noticed_in_time_where_nothing_is_known(duration: float) -> None:
    times = looks(duration)
    assert late(times, duration) <= max(0.25, duration / 40) + CALL
    assert len(times) <= 4 * min(duration, 10) + 150


@pytest.mark.parametrize("duration", [1.0, 5.0, 20.0, 21.0, 200.0, 3000.0])
def test_progress_says_when_to_look(duration: float) -> None:
    times = looks(duration, progress=True)
    assert late(times, duration) <= max(0.25, duration / 40) + CALL
    assert len(times) <= (10 if duration < 100 else 100)


@pytest.mark.parametrize("duration", [0.4, 3.0, 20.0, 300.0])
@pytest.mark.parametrize("stuck", [1, 10, 50, 99])
def test_progress_that_stands_still_and_jumps_is_looked_at_again(
    duration: float, stuck: int
) -> None:
    at = first_look(())
    while at < duration:
        at += next_look(at, progress=stuck)
    assert at <= max(duration * 5, duration + 4.0) + CALL


@pytest.mark.parametrize("duration", [0.03, 1.0, 3.0, 20.0, 300.0])
@pytest.mark.parametrize("progress", [True, False])
def test_earlier_waits_say_when_to_look(duration: float, progress: bool) -> None:
    earlier = [duration + 0.04, duration, duration + 0.02]
    times = looks(duration + 0.01, earlier, progress=progress)
    assert late(times, duration) <= 0.15 + CALL
    assert len(times) <= 10


@pytest.mark.parametrize("earlier", [[0.03] * 8, [1.0] * 8, [3.0, 20.0, 0.1], [40.0]])
@pytest.mark.parametrize("duration", [0.05, 1.5, 3.5, 21.0, 90.0])
def test_earlier_waits_that_were_different_do_little_harm(
    earlier: list[float], duration: float
) -> None:
    times = looks(duration, earlier)
    assert times[-1] <= max(duration * 3.1, duration + max(0.25, duration / 40) + CALL)
    assert len(times) <= len(looks(duration)) + 4


def test_a_sign_on_this_machine_spares_looks() -> None:
    # It is one second late where the sign never comes.
    assert len(looks(2.0, sign=True)) <= 3
    assert late(looks(2.0, sign=True), 2.0) <= 1.0


def test_a_sign_ends_the_pause_and_its_time_is_what_is_learnt() -> None:
    learnt: list[float] = []
    begun = time.monotonic()

    def sign(seconds: float, token: CancelToken) -> bool:
        time.sleep(0.2)
        return True

    pace = Pace(sign=sign, learn=learnt.append)
    pace.before_first(CancelToken())
    pace.before_next(CancelToken())
    pace.ended()
    assert 0.2 < time.monotonic() - begun < 2
    assert len(learnt) == 1 and 0.2 < learnt[0] < 2


def test_what_is_learnt_lies_between_the_last_two_looks() -> None:
    learnt: list[float] = []
    pace = Pace(learn=learnt.append, first=0.2)
    pace.before_first(CancelToken())
    pace.ended()
    assert 0.08 < learnt[0] < 0.2


@pytest.mark.parametrize(
    ("gap", "earlier", "wanted"),
    [
        (0.3, [], "learnt"),
        (4.0, [], "nothing"),
        (4.0, [5.0], "nothing"),
        (4.0, [9.0, 30.0], "forgotten"),
        (0.3, [9.0], "learnt"),
    ],
)
def test_an_end_between_looks_far_apart_is_not_learnt(
    gap: float, earlier: list[float], wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    heard: list[str] = []
    pace = Pace(
        earlier, learn=lambda _: heard.append("learnt"), forget=lambda: heard.append("forgotten")
    )
    monkeypatch.setattr(pace, "_rest", lambda *_: None)
    now += 2.0
    pace.before_next(CancelToken())
    now += gap
    pace.ended()
    assert heard == ([] if wanted == "nothing" else [wanted])


@pytest.mark.parametrize("progress", [True, False])
def test_a_wait_that_took_longer_than_all_others_costs_no_looks(progress: bool) -> None:
    earlier = [20.0, 20.04, 29.0, 20.02, 20.06]
    assert usual(earlier) == [20.0, 20.02, 20.04, 20.06]
    assert usual(earlier[:3]) == earlier[:3]
    few = looks(20.03, usual(earlier), progress=progress)
    assert len(few) < len(looks(20.03, earlier, progress=progress)) - 4


def test_looks_are_apart_where_calls_are_throttled(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    token = CancelToken()
    monkeypatch.setattr(token, "sleep", rests.append)
    pace = Pace(apart=lambda: 7.0)
    pace.before_first(token)
    pace.before_next(token)
    assert rests == [pytest.approx(7.0, abs=0.5)] * 2
    # What this machine shows already needs no such pause.
    waited: list[float] = []

    def sign(seconds: float, token: CancelToken) -> bool:
        waited.append(seconds)
        return True

    pace = Pace(apart=lambda: 7.0, sign=sign)
    pace.before_first(token)
    pace.before_next(token)
    assert waited == [pytest.approx(7.0, abs=0.5)] and rests[-1] < 1


def test_each_look_takes_its_turn() -> None:
    turns: list[CancelToken] = []
    token = CancelToken()
    pace = Pace(turn=turns.append, first=0.0)
    pace.before_first(token)
    pace.before_next(token)
    assert turns == [token, token]
