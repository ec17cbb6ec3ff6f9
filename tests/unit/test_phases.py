"""The runner: order of undoing, drafts, cancel, -debug, -on-error, and errors that hide nothing."""

import gc
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, Cancelled, UndoError
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


def test_success_leaves_in_reverse_and_keeps_drafts() -> None:
    made = Recorder()
    with phases() as runner:
        runner.enter("a", made.thing("a"))
        runner.enter("b", made.thing("b"))
        runner.draft("image", lambda: made.events.append("image gone"))
        runner.keep()
    assert made.events == ["+a", "+b", "-b", "-a"]


def test_failure_undoes_drafts_too() -> None:
    made = Recorder()
    with pytest.raises(BuildError, match="no"), phases() as runner:
        runner.enter("a", made.thing("a"))
        runner.draft("image", lambda: made.events.append("image gone"))
        runner.do("fail", _fail)
    assert made.events == ["+a", "image gone", "-a"]


def test_leave_stops_at_its_level_and_spares_drafts() -> None:
    made = Recorder()
    with phases() as runner:
        runner.enter("volume", made.thing("volume"))
        level = runner.level()
        runner.enter("mount", made.thing("mount"))
        runner.draft("snapshot", lambda: made.events.append("snapshot gone"))
        runner.leave("unmount", since=level)
        assert made.events == ["+volume", "+mount", "-mount"]
        runner.leave_beside("delete", since=0)
        runner.join()
        assert made.events[-1] == "-volume"
        runner.keep()
    assert "snapshot gone" not in made.events


def test_a_failed_undo_neither_stops_the_others_nor_hides_the_cause() -> None:
    made, ui = Recorder(), RecordingUi()
    with pytest.raises(BuildError, match="^no") as caught, phases(ui) as runner:
        runner.enter("a", made.thing("a"))
        runner.enter("b", made.thing("b", undo_fails=True))
        runner.do("fail", _fail)
    assert made.events == ["+a", "+b", "-b", "-a"]
    assert caught.value.__notes__ == ["b is left behind"]
    assert "left: b" in ui.text


def test_a_failed_undo_alone_is_the_error() -> None:
    made = Recorder()
    with pytest.raises(UndoError, match="b is left behind"), phases() as runner:
        runner.enter("b", made.thing("b", undo_fails=True))


def test_an_error_beside_comes_out_of_join() -> None:
    made = Recorder()
    with pytest.raises(UndoError), phases() as runner:
        runner.enter("b", made.thing("b", undo_fails=True))
        runner.leave_beside("leave", since=0)
        runner.join()


def test_what_runs_beside_is_waited_for_when_the_build_fails() -> None:
    made, go = Recorder(), threading.Event()

    @contextmanager
    def slow() -> Iterator[None]:
        yield
        go.wait(5)
        made.events.append("-slow")

    with pytest.raises(BuildError), phases() as runner:
        runner.enter("slow", slow)
        runner.leave_beside("leave", since=0)
        threading.Timer(0.1, go.set).start()
        runner.do("fail", _fail)
    assert made.events == ["-slow"]


def test_cancel_is_seen_between_phases() -> None:
    token = CancelToken()
    made = Recorder()
    with pytest.raises(Cancelled), Phases(ui=RecordingUi(), token=token) as runner:
        runner.enter("a", made.thing("a"))
        token.cancel()
        runner.do("never", lambda: made.events.append("never"))
    assert made.events == ["+a", "-a"]


@pytest.mark.parametrize("on_error", ["abort", "run-cleanup-provisioner"])
def test_abort_keeps_everything_and_lists_it(on_error: str) -> None:
    made, ui = Recorder(), RecordingUi()
    with pytest.raises(BuildError), phases(ui, on_error=on_error) as runner:
        runner.enter("volume", made.thing("volume"))
        runner.do("fail", _fail)
    assert "  volume" in ui.text
    del runner
    gc.collect()
    assert made.events == ["+volume"], "a dropped generator must not undo what was kept"


def test_ask_retries_the_failed_phase() -> None:
    ui = RecordingUi(answers=["x", "r", "c"])
    tries = []

    def flaky() -> str:
        tries.append(1)
        if len(tries) < 2:
            raise BuildError("not yet")
        return "done"

    with phases(ui, on_error="ask") as runner:
        assert runner.do("flaky", flaky) == "done"
    assert len(tries) == 2


def test_debug_pauses_after_each_phase() -> None:
    ui = RecordingUi(answers=["", ""])
    made = Recorder()
    with phases(ui, debug=True) as runner:
        runner.enter("a", made.thing("a"))
        runner.do("b", lambda: None)
    assert [text for kind, text in ui.said if kind == "ask"] == [
        "Pausing after 'a' (-debug). Press enter to continue.",
        "Pausing after 'b' (-debug). Press enter to continue.",
    ]


def _fail() -> None:
    raise BuildError("no")


def test_debug_without_a_terminal_does_not_pause() -> None:
    class Deaf(RecordingUi):
        def ask(self, query: str) -> str:
            raise BuildError("no answer from the user: no available tty")

    with phases(Deaf(), debug=True) as runner:
        assert runner.do("a", lambda: 1) == 1
