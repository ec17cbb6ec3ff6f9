"""How fast the builds on this VM may call the API together, once it has said that they were too fast.

OUTSCALE's rates are not published and differ by account, so they are found out: after a call that was
throttled, calls are spaced, more widely each time, and less so again as long as none is. Looks of waits
are further apart then and take half of what there is, so that calls that get a build on come first. The
spacing, and whose turn is when, is in a file that the builds of one user share; without it, each build
has its own.

Times are of the kernel's monotonic clock, which all processes share until the next boot.
"""

import hashlib
import json
import logging
import math
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.private_files import lock_private, open_private
from packer_plugin_osc_chroot.errors import Cancelled

log = logging.getLogger(__name__)

# Seconds between two calls: once the first was throttled, at least and at most.
_FIRST_SPACING = 0.15
_LEAST_SPACING = 0.05
_WIDEST_SPACING = 2.0
_WIDEN = 1.2
_NARROW = 0.95
# Calls that are throttled together count as one; and so long after the last the spacing narrows.
_TOGETHER_SECONDS = 0.5
_NARROW_AFTER = 3.0
# No turn is further away than that, and a spacing is forgotten that so long nothing has changed.
_FURTHEST = 120.0
_LOCK_SECONDS = 0.2
# A look has so many times the spacing of a call to itself, and a wait looks no more often than that.
_LOOK_SHARE = 2.0
_LOOK_APART = 5.0
# Numbers of turns that make sense.
_MOST_TURNS = 1e12


@dataclass
class _Shared:
    """`spacing` is 0 as long as nothing was throttled. `call` and `look` are the next free turns.

    `changed` is when the spacing last did, `widened` when it last became wider: to `wide`. The turns of
    calls are numbered: `number` is that of the next free one, all below `gone` have had theirs, and
    `first` was the first that had not at `widened`.
    """

    spacing: float = 0.0
    changed: float = 0.0
    widened: float = 0.0
    call: float = 0.0
    look: float = 0.0
    wide: float = 0.0
    number: float = 0.0
    gone: float = 0.0
    first: float = 0.0


class Budget:
    """Thread-safe. One for each build; `account` is anything that tells accounts apart."""

    def __init__(
        self,
        directory: Path | None = None,
        *,
        account: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # The key's hash: neither it nor the endpoint is to be read from a file name.
        name = hashlib.sha256(account.encode()).hexdigest()[:16]
        self._path = directory / f"calls-{name}.json" if directory else None
        self._own = _Shared()
        self._clock = clock
        self._lock = threading.Lock()

    @property
    def is_tight(self) -> bool:
        """Whether calls were throttled lately: what is not needed had better not be called."""
        with self._lock, self._state(create=False) as state:
            return state.spacing > 0

    @property
    def look_pause(self) -> float:
        """Seconds that the looks of a wait are apart at least: 0 where nothing was throttled lately."""
        with self._lock, self._state(create=False) as state:
            return state.spacing * _LOOK_APART

    def call_turn(self, token: CancelToken) -> None:
        """Wait for the turn of a call. Raises Cancelled.

        Where the spacing became wider meanwhile, those who wait keep to it, in the same order: a queue
        that still went too fast would be refused, and widen it further than need be.
        """
        number = -1.0
        widened: float | None = None
        while True:
            with self._lock, self._state(create=False) as state:
                now = self._clock()
                turn = now
                if state.widened != widened:
                    self._narrow(state, now)
                    widened = state.widened
                    if not 0 <= number < state.number:
                        number = state.number
                        turn, taken = max(now, state.call), state.spacing
                        if state.spacing:
                            state.number += 1
                            state.call = turn + taken
                    elif state.spacing:
                        taken = state.wide
                        turn = state.widened + taken * (number - state.first + 1)
                        turn = min(turn, now + _FURTHEST)
                if turn <= now or not state.spacing:
                    state.gone = min(max(state.gone, number + 1), state.number)
                    return
            with self._given_back(call=taken, widened=widened):
                token.sleep(turn - now)

    def look_turn(self, token: CancelToken) -> None:
        """Wait for the turn of a look, which has yet to take that of a call. Raises Cancelled."""
        with self._lock, self._state(create=False) as state:
            now = self._clock()
            if not state.spacing:
                return
            turn = max(now, state.call, state.look)
            taken = state.spacing * _LOOK_SHARE
            state.look = turn + taken
            widened = state.widened
        if turn > now:
            with self._given_back(look=taken, widened=widened):
                token.sleep(turn - now)

    def throttled(self) -> None:
        """A call was refused for the rate: all are spaced more widely from now on."""
        with self._lock, self._state(create=True) as state:
            now = self._clock()
            if state.spacing and now - state.changed < _TOGETHER_SECONDS:
                return
            wider = state.spacing * _WIDEN * random.uniform(0.95, 1.05)
            state.spacing = min(max(_FIRST_SPACING, wider), _WIDEST_SPACING)
            state.changed = state.widened = now
            state.wide, state.first = state.spacing, state.gone
            queue = state.number - state.gone
            state.call = max(state.call, now + state.spacing * (queue + 1))
            log.info("throttled: one call each %.2f s from now on", state.spacing)

    @contextmanager
    def _given_back(
        self, *, widened: float, call: float = 0.0, look: float = 0.0
    ) -> Iterator[None]:
        """What a cancelled build would have used is there for others, and for its own undoing."""
        try:
            yield
        except Cancelled:
            with self._lock, self._state(create=False) as state:
                still = state.widened == widened
                state.look -= look if still else 0.0
                if call:
                    state.call -= call if still else state.wide
                    state.number = max(state.gone, state.number - 1)
            raise

    def _narrow(self, state: _Shared, now: float) -> None:
        if state.spacing and now - state.changed > _NARROW_AFTER:
            state.spacing *= _NARROW ** int((now - state.changed) / _NARROW_AFTER)
            state.changed = now
            if state.spacing < _LEAST_SPACING:
                state.spacing = 0.0

    @contextmanager
    def _state(self, *, create: bool) -> Iterator[_Shared]:
        """What is shared, locked for the moment of the block, and written back."""
        opened = open_private(self._path, create=create) if self._path is not None else None
        if opened is None:
            yield self._own
            return
        try:
            # Held for moments only, unless its holder was stopped: a hint must hold up neither a build
            # nor its cancel.
            if not lock_private(opened, seconds=_LOCK_SECONDS):
                yield self._own
                return
            try:
                state = _parse(os.pread(opened, 4096, 0), now=self._clock())
            except OSError as error:
                log.debug("%s: %s", self._path, error)
                yield self._own
                return
            before = asdict(state)
            yield state
            if asdict(state) != before:
                data = json.dumps(asdict(state)).encode()
                # Where the disk is full, the others do not get to know.
                with suppress(OSError):
                    os.pwrite(opened, data, 0)
                    os.ftruncate(opened, len(data))
        finally:
            os.close(opened)


def _parse(data: bytes, *, now: float) -> _Shared:
    """What of it makes sense."""
    try:
        document = json.loads(data or b"{}")
        state = _Shared(
            **{each.name: float(document.get(each.name, 0)) for each in fields(_Shared)}
        )
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return _Shared()
    turns = (state.changed, state.widened, state.call, state.look)
    sound = (
        all(map(math.isfinite, turns))
        and 0 <= state.spacing <= _WIDEST_SPACING
        and 0 <= state.wide <= _WIDEST_SPACING
        and 0 <= state.first <= state.gone <= state.number < _MOST_TURNS
    )
    # What changed in the time to come is of another boot.
    if not sound or not 0 <= now - state.changed < _FURTHEST:
        return _Shared()
    # Many builds at the widest spacing would queue for longer: the rest may then come together.
    furthest = now + _FURTHEST
    return replace(state, call=min(state.call, furthest), look=min(state.look, furthest))
