"""A runner of phases, and what notes the order in which it enters and leaves them."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, UndoError
from packer_plugin_osc_chroot.phases import Phases
from packer_plugin_osc_chroot.ui import RecordingUi


class Recorder:
    """Makes context managers that note when they are entered and left."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def thing(
        self, name: str, *, undo_fails: bool = False
    ) -> Callable[[], AbstractContextManager[str]]:
        @contextmanager
        def manager() -> Iterator[str]:
            self.events.append(f"+{name}")
            try:
                yield name
            finally:
                self.events.append(f"-{name}")
                if undo_fails:
                    raise UndoError(f"{name} is left behind", left=(name,))

        return manager


def phases(ui: RecordingUi | None = None, **options: str | bool) -> Phases:
    return Phases(ui=ui or RecordingUi(), token=CancelToken(), **options)  # type: ignore[arg-type]


def fail() -> None:
    raise BuildError("no")
