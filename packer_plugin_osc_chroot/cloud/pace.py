"""When a wait looks next: late enough to ask seldom, soon enough to notice the end.

Three things say when: the API's Progress, how long the same kind of wait took before on this VM, and a
sign on this machine (a disk that came or went). Where none of them says anything, a wait looks so often
that its end is noticed within a quarter of a second, or a fortieth of its duration; within a second
where a sign is waited for that never comes.
"""

import math
import time
from collections.abc import Callable, Sequence

from packer_plugin_osc_chroot.cancel import CancelToken

# The end of a wait is noticed within this many seconds, or this share of its duration.
NOTICE_SECONDS = 0.25
NOTICE_SHARE = 1 / 40
# The first look: what takes no time at all is there by then.
FIRST_SECONDS = 0.1
# Between two looks at what a sign will tell of: the longest, for signs that never come.
_SIGN_FIRST = 0.75
_SIGN_LONGEST = 1.0
# Around the time at which earlier waits ended, looks come at least so far apart.
_CLOSE_SECONDS = 0.1
# What takes a third of the time that it took before is noticed by three times its duration.
_MUCH_QUICKER = 3.0
# Such a share of it is like it.
_LIKE = 0.8
# Progress may stand still and then jump: what it says is believed for so many times what has passed, or
# for so many seconds at first.
_BELIEVED = 4.0
# A few waits say little about how much they differ.
_FEW = 3
# An end that is known no better than that says little: of a second where a sign did not come.
_VAGUE_SECONDS = 1.2
_VAGUE_SHARE = 2 * NOTICE_SHARE

# Waits up to that many seconds for a sign; true when there is one.
Sign = Callable[[float, CancelToken], bool]


class Pace:
    """The pace of one wait, from its making on.

    `earlier` is how long the same kind took before, in seconds; `learn` is told how long this one
    took, and `forget` is called where the earlier ones are wrong. `turn` waits until a look may be sent
    (see `cloud/budget.py`), and `apart` says how many seconds they must be apart. `first` is when to
    look first, where that is known.
    """

    def __init__(
        self,
        earlier: Sequence[float] = (),
        *,
        learn: Callable[[float], None] = lambda seconds: None,
        forget: Callable[[], None] = lambda: None,
        turn: Callable[[CancelToken], None] = lambda token: None,
        apart: Callable[[], float] = lambda: 0.0,
        sign: Sign | None = None,
        first: float | None = None,
    ) -> None:
        self._earlier = usual(earlier)
        self._first = first
        self._came = 0
        self._learn = learn
        self._forget = forget
        self._turn = turn
        self._apart = apart
        self._sign = sign
        self._begun = self._asked = time.monotonic()
        # When a look last found it unfinished.
        self._unfinished = 0.0

    def before_first(self, token: CancelToken) -> None:
        """Wait until the first look is worth while. Raises Cancelled."""
        first = self._first
        if first is None:
            first = max(first_look(self._earlier, signs=self._sign is not None), self._apart())
        self._rest(max(0.0, self._begun + first - time.monotonic()), token)

    def may_end_within(self, seconds: float) -> bool:
        """Whether that is known to happen, or nothing is known."""
        return not self._earlier or min(self._earlier) <= seconds

    def before_next(
        self, token: CancelToken, *, progress: int | None = None, latest: float = math.inf
    ) -> None:
        """Wait until the next look, after one that found it unfinished. Raises Cancelled.

        It comes in `latest` seconds at the latest.
        """
        now = time.monotonic()
        elapsed = self._unfinished = now - self._begun
        took = now - self._asked
        pause = next_look(
            elapsed, earlier=self._earlier, progress=progress, signs=self._sign is not None
        )
        if self._came:
            # The API is about to show what this machine shows already.
            pause = min(pause, _CLOSE_SECONDS / 2 * self._came)
            self._came *= 2
        else:
            pause = max(pause, self._apart())
        # The call takes a while, and tells what is at its end rather than at its beginning.
        self._rest(min(max(pause - took, pause / 2), max(latest, 0.0)), token)

    def ended(self) -> None:
        """The last look found it finished: somewhere between that look and the one before.

        Looks that are far between, as those of throttled builds are, tell too little to be learnt.
        """
        elapsed = time.monotonic() - self._begun
        if self._came:
            self._learn(elapsed)
        elif elapsed - self._unfinished <= max(_VAGUE_SECONDS, elapsed * _VAGUE_SHARE):
            self._learn((self._unfinished + elapsed) / 2)
        elif self._earlier and elapsed < min(self._earlier):
            self._forget()

    def _rest(self, seconds: float, token: CancelToken) -> None:
        if self._sign is None:
            token.sleep(seconds)
        elif self._sign(seconds, token):
            self._sign = None
            self._came = 1
        self._turn(token)
        self._asked = time.monotonic()


def usual(earlier: Sequence[float]) -> Sequence[float]:
    """Without the longest, where there are enough: what was in its way would cost looks each time."""
    return sorted(earlier)[:-1] if len(earlier) > _FEW else earlier


def first_look(earlier: Sequence[float], *, signs: bool = False) -> float:
    """Seconds from the beginning to the first look."""
    usual = _SIGN_FIRST if signs else FIRST_SECONDS
    # Soon after all earlier ones, where those were quicker: one look too many costs more.
    return min(usual, max(earlier) + _CLOSE_SECONDS / 4) if earlier else usual


def next_look(
    elapsed: float,
    *,
    earlier: Sequence[float] = (),
    progress: int | None = None,
    signs: bool = False,
) -> float:
    """Seconds to the next look, after one at `elapsed` that found it unfinished.

    `progress` is in percent; what follows is assumed to go at most about twice as fast as what was.
    `signs`: there is something on this machine that will tell.
    """
    soon = max(NOTICE_SECONDS, elapsed * NOTICE_SHARE)
    expected = _expected(elapsed, earlier, soon)
    if progress:
        remains = elapsed * (100 - progress) / (progress + 1)
        if expected and _agree(elapsed, remains, earlier):
            return expected
        return max(soon, min(remains / 2, _BELIEVED * max(elapsed, 1.0)))
    if expected:
        return expected
    return max(soon, min(max(_SIGN_FIRST, elapsed), _SIGN_LONGEST)) if signs else soon


def _agree(elapsed: float, remains: float, earlier: Sequence[float]) -> bool:
    """Whether Progress, once there is enough of it, tells of an end such as there was before."""
    whole = elapsed + remains
    likely = min(earlier) * _LIKE <= whole <= max(earlier) / _LIKE
    return likely and (elapsed > whole / 3 or remains == 0)


def _expected(elapsed: float, earlier: Sequence[float], soon: float) -> float:
    """Seconds to the next look by what was before; 0 where that says nothing (any more)."""
    if not earlier:
        return 0.0
    least, most = min(earlier), max(earlier)
    spread = most - least
    if len(earlier) < _FEW:
        spread = max(spread, most * NOTICE_SHARE)
    opens = least - max(_CLOSE_SECONDS / 2, spread / 2)
    closes = most + max(_CLOSE_SECONDS, spread / 2)
    if elapsed >= closes or opens < FIRST_SECONDS:
        # They differ too much, or the first look was all that there is to it.
        return 0.0
    if elapsed >= opens:
        return min(soon, max(_CLOSE_SECONDS, (closes - opens) / 5))
    quicker = max(FIRST_SECONDS, elapsed) * _MUCH_QUICKER
    # A look shortly before that is one for nothing.
    return (quicker if quicker < opens * 0.6 else max(opens, elapsed + 0.01)) - elapsed
