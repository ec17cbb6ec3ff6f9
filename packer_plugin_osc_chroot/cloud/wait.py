"""The one way to wait for a resource of the API to reach a state, and to insist on its removal."""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from packer_plugin_osc_chroot.cancel import UNDO_SECONDS, CancelToken
from packer_plugin_osc_chroot.cloud.client import is_missing
from packer_plugin_osc_chroot.cloud.pace import NOTICE_SHARE, Pace
from packer_plugin_osc_chroot.errors import BuildError, Cancelled, CloudError
from packer_plugin_osc_chroot.ui import Ui

log = logging.getLogger(__name__)

T = TypeVar("T")

# The longest wait for anything: a snapshot of a large volume.
LONGEST_SECONDS = 4 * 3600.0
# Seconds between two lines about a wait that goes on.
_REPORT_EVERY = 10.0
# Reads are eventually consistent: for this long something that was made may not be shown, and
# something that is gone may be.
SETTLE_SECONDS = 6.0
_LOOK_EVERY = 0.5
# How often a call without a ClientToken is sent, as long as it was found not to be done.
_TRIES = 4


def wait_for(
    what: str,
    read: Callable[[], Mapping[str, Any] | None],
    *,
    target: Collection[str],
    failed: Collection[str] = (),
    state: Callable[[Mapping[str, Any]], str] = lambda resource: str(resource.get("State", "")),
    deadline: float,
    token: CancelToken,
    ui: Ui,
    missing_is: str = "",
    option: str = "",
    pace: Pace | None = None,
) -> Mapping[str, Any]:
    """Read until the resource's state is one of `target`; returns the resource then.

    `read` gives None while the resource is not shown. The API is eventually consistent, so that is
    waited through, unless `missing_is` names the state that it stands for; but what was shown and is
    not any more was removed by somebody. `deadline` is in seconds, from the template's `option`
    where that is named; `pace` says when to look. Raises BuildError when a state of `failed` is
    reached, the resource has vanished or the deadline passes, and Cancelled.
    """
    begun = time.monotonic()
    reported = begun
    pace = pace or Pace()
    last_state, last_shown = "", begun
    missed: float | None = None
    pace.before_first(token)
    while True:
        resource = read()
        found = missing_is if resource is None else state(resource)
        if found and found in target:
            pace.ended()
            return resource or {}
        shown = found or "not shown by the API"
        if found in failed:
            raise BuildError(f"{what}: is in state {shown}, expected {_either(target)}")
        now = time.monotonic()
        if found:
            last_state, last_shown, missed = found, now, None
        elif missed is None:
            # Since this look, not since the last that showed it: that may be minutes ago.
            missed = now
        elif last_state and now - missed > SETTLE_SECONDS:
            raise BuildError(
                f"{what}: has vanished (it was {last_state} {now - last_shown:.0f} s ago), expected"
                f" {_either(target)}",
                hint="Somebody else removed it: the account's log of API calls may say who",
            )
        if now - begun > deadline:
            raise BuildError(
                f"{what}: still {shown} after {deadline:.0f} s, expected {_either(target)}",
                hint=f"Set {option} higher where it only takes long" if option else "",
            )
        progress = resource.get("Progress") if resource else None
        if not isinstance(progress, int) or not 0 <= progress <= 100:
            progress = None
        if now - reported >= _REPORT_EVERY:
            reported = now
            percent = "" if progress is None else f", {progress}%"
            ui.message(f"{what}: {shown}{percent} ({now - begun:.0f} s)")
        latest = deadline - (now - begun)
        if last_state and missed is not None:
            latest = min(latest, SETTLE_SECONDS)
        pace.before_next(token, progress=progress, latest=latest)


def _either(states: Collection[str]) -> str:
    return " or ".join(sorted(states)) or "gone"


def insist(
    send: Callable[[], object],
    *,
    is_done: Callable[[], bool],
    token: CancelToken,
    held_up: Callable[[], str] = lambda: "",
    tell: Callable[[str], None] = log.info,
) -> None:
    """Send a Delete or Unlink until the API takes it.

    It refuses for a while: a volume that is still creating or linked, a snapshot that is pending or
    whose image is going. `is_done` looks whether a refusal only means that it is done. `held_up`
    says what else it waits for, if that can take long: then the token's deadline does not count, and
    `tell` gets a line now and then. Raises the last refusal when the deadline passes (UNDO_SECONDS at
    the latest: a build's own token has none), and at once what no patience helps against.
    """
    pause = 0.1
    begun = told = free = time.monotonic()
    refusal: CloudError | None = None
    was_held_up = False
    while True:
        try:
            try:
                send()
                return
            except CloudError as error:
                if is_missing(error):
                    return
                if not 400 <= error.status < 500 or error.status in (401, 403):
                    raise
                refusal = error
            if is_done():
                return
            log.info("refused for now: %s", refusal)
            now = time.monotonic()
            holder = held_up() if now - begun < LONGEST_SECONDS else ""
            if holder or was_held_up:
                token.renew()
                free = now
            if holder and now - told >= _REPORT_EVERY:
                told = now
                tell(f"{refusal.action} is refused while {holder} ({now - begun:.0f} s)")
            if was_held_up and not holder:
                # It ended between the refusal and the look: the next call is taken.
                pause = 0.1
            was_held_up = bool(holder)
            if now - free > UNDO_SECONDS:
                raise refusal
            token.sleep(pause)
        except Cancelled as cancelled:
            if refusal is not None:
                refusal.maybe_done = cancelled.maybe_done
            raise refusal or cancelled from None
        longest = max(2.0, min((now - begun) * NOTICE_SHARE, _REPORT_EVERY))
        pause = min(pause * 1.5, longest)


def look_for(find: Callable[[], T | None], *, token: CancelToken) -> T | None:
    """Look until something is found, for as long as the API may not show what it has."""
    begun = time.monotonic()
    while (found := find()) is None and time.monotonic() - begun < SETTLE_SECONDS:
        token.sleep(_LOOK_EVERY)
    return found


def sent_once(send: Callable[[], T], find: Callable[[], T | None], *, token: CancelToken) -> T:
    """Make a call that has no ClientToken and must not be done twice.

    Where it may have been done, `find` looks whether it was; only when it was not is it sent again.
    A refusal after that may mean that it was done after all, so what is raised stays `maybe_done`.
    """
    maybe_done = False
    try:
        for attempt in range(1, _TRIES + 1):
            try:
                return send()
            except CloudError as error:
                maybe_done = maybe_done or error.maybe_done
                if not maybe_done:
                    raise
                log.info("looking whether it was done: %s", error)
                found = look_for(find, token=token)
                if found is not None:
                    return found
                if not error.maybe_done or attempt == _TRIES:
                    raise
    except BuildError as error:
        error.maybe_done = maybe_done or error.maybe_done
        raise
    raise AssertionError("unreachable")
