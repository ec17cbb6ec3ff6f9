"""The record of every call: kept in memory, and handed on as JSON where asked for.

In memory are all calls that change something, and the newest of those that read.

A call's line: time, action, account, parameters, status, answer, duration in seconds. Keys and
signatures are in no parameter and no answer of the actions that are simulated, and the parameters of
others are not looked at, so nothing has to be removed. What a call set on its way has a line of its
own once it is there: time, action, resource, state, seconds.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass

from packer_plugin_osc_chroot.localcloud.openapi import Json


@dataclass(frozen=True)
class RecordedCall:
    """One call. `account` is empty where no key was accepted; `duration` is in seconds.

    Where trouble spoilt the answer, `answer` is what of it came through; `status` is 0 where the
    connection was reset.
    """

    time: str
    action: str
    account: str
    parameters: Json
    status: int
    answer: Json
    duration: float


@dataclass(frozen=True)
class Transition:
    """Something that a call set on its way has come to a state. `seconds` is how long it took."""

    time: str
    action: str
    resource: str
    state: str
    seconds: float


@dataclass(frozen=True)
class Defect:
    """Something a caller did wrong that a real Region would have let pass, or a fault of ours."""

    time: str
    text: str

    def __str__(self) -> str:
        return self.text


# A Region may be up for days, with somebody waiting in it.
_READS_KEPT = 5_000


class Record:
    """Appended to by the Region's thread alone; others read copies. `write` gets each line."""

    def __init__(self, *, clock: Callable[[], str]) -> None:
        self._clock = clock
        self.write: Callable[[Json], None] = lambda line: None
        self._calls: dict[int, RecordedCall] = {}
        self._reads: deque[int] = deque()
        self.calls_made = 0
        self._transitions: list[Transition] = []
        self._defects: list[Defect] = []

    @property
    def calls(self) -> list[RecordedCall]:
        return list(self._calls.values())

    @property
    def transitions(self) -> list[Transition]:
        return list(self._transitions)

    @property
    def defects(self) -> list[Defect]:
        return list(self._defects)

    def add_call(self, call: RecordedCall) -> None:
        self.calls_made += 1
        self._calls[self.calls_made] = call
        if call.action.startswith("Read"):
            self._reads.append(self.calls_made)
            if len(self._reads) > _READS_KEPT:
                del self._calls[self._reads.popleft()]
        self.write(asdict(call))

    def add_transition(self, action: str, resource: str, *, state: str, seconds: float) -> None:
        transition = Transition(self._clock(), action, resource, state, round(seconds, 4))
        self._transitions.append(transition)
        self.write(asdict(transition))

    def add_defect(self, text: str) -> None:
        defect = Defect(time=self._clock(), text=text)
        self._defects.append(defect)
        self.write({"time": defect.time, "defect": text})
