"""The runner: order of undoing, drafts, cancel, -debug, -on-error, and errors that hide nothing."""

import gc
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, Cancelled, CloudError, UndoError
from packer_plugin_osc_chroot.journal.dead import dead_journals
from packer_plugin_osc_chroot.journal.journal import Journal
from packer_plugin_osc_chroot.phases import Phases
from packer_plugin_osc_chroot.resources.removal import Attempt, Removal, undoing
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
        with runner.draft("image", lambda: made.events.append("image gone")):
            pass
        runner.keep()
    assert made.events == ["+a", "+b", "-b", "-a"]


def test_failure_undoes_drafts_too() -> None:
    made = Recorder()
    with pytest.raises(BuildError, match="no"), phases() as runner:
        runner.enter("a", made.thing("a"))
        with runner.draft("image", lambda: made.events.append("image gone")):
            pass
        runner.do("fail", _fail)
    assert made.events == ["+a", "image gone", "-a"]


def test_leave_stops_at_its_level_and_spares_drafts() -> None:
    made = Recorder()
    with phases() as runner:
        runner.enter("volume", made.thing("volume"))
        level = runner.level()
        runner.enter("mount", made.thing("mount"))
        with runner.draft("snapshot", lambda: made.events.append("snapshot gone")):
            pass
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
    assert caught.value.__notes__ == ["b is left behind\nleft: b"]
    assert "left: b" in ui.text


def test_an_undo_that_fails_in_two_places_names_both() -> None:
    made, ui = Recorder(), RecordingUi()

    def copied() -> None:
        raise UndoError("copy is left behind", left=["copy"])

    @contextmanager
    def both() -> Iterator[None]:
        with undoing(copied), made.thing("volume", undo_fails=True)():
            yield

    with pytest.raises(BuildError, match="^no") as caught, phases(ui) as runner:
        runner.enter("create volume", both)
        runner.do("fail", _fail)
    assert [str(each) for each in runner.failures] == [
        "volume is left behind",
        "copy is left behind",
    ]
    assert ui.text.count("left: volume") == ui.text.count("left: copy") == 1
    assert caught.value.__notes__ == [
        "volume is left behind\nleft: volume",
        "copy is left behind\nleft: copy",
    ]


def test_a_failed_undo_alone_is_the_error() -> None:
    made = Recorder()
    with pytest.raises(UndoError, match="b is left behind"), phases() as runner:
        runner.enter("b", made.thing("b", undo_fails=True))


def test_a_draft_that_fails_to_be_made_is_undone_at_once_and_can_be_made_again() -> None:
    ui = RecordingUi(answers=["r"])
    events: list[str] = []

    def make(runner: Phases) -> None:
        with runner.draft("snapshot", lambda: events.append("gone")):
            events.append("asked for")
            if len(events) == 1:
                raise BuildError("no answer")

    with phases(ui, on_error="ask") as runner:
        runner.do("snapshot", lambda: make(runner))
        assert events == ["asked for", "gone", "asked for"]
        runner.keep()
    assert events == ["asked for", "gone", "asked for"]


def test_what_cannot_be_undone_after_the_commit_is_said_and_fails_nothing() -> None:
    made, ui = Recorder(), RecordingUi()
    with phases(ui) as runner:
        runner.enter("volume", made.thing("volume", undo_fails=True))
        runner.leave_beside("leave", since=0)
        with runner.draft("image", lambda: made.events.append("image gone")):
            pass
        runner.keep()
        runner.join()
    assert "image gone" not in made.events
    assert "left: volume" in ui.text


def test_what_cannot_be_undone_beside_is_noted_on_the_error() -> None:
    made = Recorder()
    with pytest.raises(BuildError, match="^no") as caught, phases() as runner:
        runner.enter("volume", made.thing("volume", undo_fails=True))
        runner.leave_beside("leave", since=0)
        runner.do("fail", _fail)
    assert caught.value.__notes__ == ["volume is left behind\nleft: volume"]


def test_beside_is_in_order() -> None:
    made = Recorder()
    with phases() as runner:
        runner.enter("volume", made.thing("volume"))
        created = runner.level()
        runner.enter("link", made.thing("link"))
        runner.leave_beside("unlink", since=created)
        runner.leave_beside("delete", since=0)
        runner.join()
    assert made.events == ["+volume", "+link", "-link", "-volume"]


def test_drafts_are_undone_before_what_runs_beside_is_waited_for() -> None:
    """A volume may not be deleted as long as its snapshot is pending."""
    snapshot_gone = threading.Event()
    order: list[str] = []

    @contextmanager
    def volume() -> Iterator[None]:
        yield
        assert snapshot_gone.wait(5)
        order.append("volume gone")

    def undo_snapshot() -> None:
        order.append("snapshot gone")
        snapshot_gone.set()

    with pytest.raises(BuildError), phases() as runner:
        runner.enter("volume", volume)
        with runner.draft("snapshot", undo_snapshot):
            pass
        runner.leave_beside("delete", since=0)
        runner.do("fail", _fail)
    assert order == ["snapshot gone", "volume gone"]


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


def test_a_cancel_is_seen_while_what_runs_beside_is_waited_for() -> None:
    token, go, order = CancelToken(), threading.Event(), list[str]()

    @contextmanager
    def slow() -> Iterator[None]:
        yield
        assert go.wait(5)
        order.append("volume gone")

    def undo_image() -> None:
        order.append("image gone")
        go.set()

    with pytest.raises(Cancelled), Phases(ui=RecordingUi(), token=token) as runner:
        runner.enter("volume", slow)
        with runner.draft("image", undo_image):
            pass
        runner.leave_beside("delete", since=0)
        threading.Timer(0.1, token.cancel).start()
        runner.join()
        runner.keep()
    assert order == ["image gone", "volume gone"]


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


def test_abort_lists_what_stands_by_its_id_and_nothing_else() -> None:
    made, ui = Recorder(), RecordingUi()
    refused = Attempt()
    with pytest.raises(CloudError), phases(ui, on_error="abort") as runner:
        runner.enter("create volume", made.thing("vol-1"), describe=lambda key: f"volume {key}")
        runner.enter("files", made.thing("files"), describe=lambda _: "")
        with runner.draft("snapshot", _fail, describe=lambda: "snapshot snap-1"):
            pass
        with (
            runner.draft("OMI", _fail, describe=lambda: _removal().describe(refused)),
            refused.sending(),
        ):
            raise CloudError("no more OMIs", action="CreateImage", status=409)
    _, listed = ui.text.split("in this order:")
    assert listed.split("\n") == ["", "  snapshot snap-1", "  volume vol-1"]
    assert made.events == ["+vol-1", "+files"]


def test_abort_with_nothing_left_says_nothing() -> None:
    ui = RecordingUi()
    with pytest.raises(BuildError), phases(ui, on_error="abort") as runner:
        runner.enter("files", Recorder().thing("files"), describe=lambda _: "")
        _fail()
    assert ui.text == ""


def test_an_undo_error_of_a_phase_itself_shows_what_is_left() -> None:
    """As a mount that goes on in the kernel: whoever shows the build's error shows its details."""
    made = Recorder()

    def half_made() -> AbstractContextManager[None]:
        raise UndoError("mounting still goes on", left=("12 mount /dev/x",))

    with pytest.raises(UndoError) as caught, phases() as runner:
        runner.enter("a", made.thing("a"))
        runner.enter("mount", half_made)
    assert caught.value.details == ("left: 12 mount /dev/x",)


def test_what_was_shown_at_the_undoing_is_not_shown_again_with_the_error() -> None:
    ui = RecordingUi()
    with pytest.raises(UndoError) as caught, phases(ui) as runner:
        runner.enter("b", Recorder().thing("b", undo_fails=True))
    assert ui.text.count("left: b") == 1
    assert caught.value.details == ()
    assert caught.value.left == ("b",)


def test_ask_shows_what_is_left_before_the_question() -> None:
    ui = RecordingUi(answers=["c"])

    def fail() -> None:
        raise UndoError("a is left behind", left=("a",))

    with pytest.raises(UndoError), phases(ui, on_error="ask") as runner:
        runner.do("fail", fail)
    assert ui.said[1] == ("error", "  left: a")


def test_abort_applies_to_an_error_between_phases() -> None:
    made = Recorder()
    with pytest.raises(BuildError), phases(on_error="abort") as runner:
        runner.enter("volume", made.thing("volume"))
        _fail()
    assert made.events == ["+volume"]


def test_abort_cleans_up_when_packer_is_gone() -> None:
    made, token = Recorder(), CancelToken()
    runner = Phases(ui=RecordingUi(), token=token, on_error="abort")
    with pytest.raises(Cancelled), runner:
        runner.enter("volume", made.thing("volume"))
        token.cancel("Packer is gone", abandoned=True)
        runner.do("never", lambda: None)
    assert made.events == ["+volume", "-volume"]


def test_ask_without_a_terminal_cleans_up_and_keeps_the_cause() -> None:
    class Deaf(RecordingUi):
        def ask(self, query: str) -> str:
            raise BuildError("no answer from the user: no available tty")

    made = Recorder()
    with pytest.raises(BuildError, match="^no$"), phases(Deaf(), on_error="ask") as runner:
        runner.enter("volume", made.thing("volume"))
        runner.do("fail", _fail)
    assert made.events == ["+volume", "-volume"]


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


def _removal() -> Removal:
    return Removal(
        kind="OMI",
        action="DeleteImage",
        parameter="ImageId",
        unnamed='named "x"',
        find=lambda token: None,
        delete=lambda key, token: None,
    )


def test_debug_without_a_terminal_does_not_pause() -> None:
    class Deaf(RecordingUi):
        def ask(self, query: str) -> str:
            raise BuildError("no answer from the user: no available tty")

    with phases(Deaf(), debug=True) as runner:
        assert runner.do("a", lambda: 1) == 1


def journal_in(directory: Path) -> Journal:
    journal = Journal(directory)
    journal.begin(vm_id="i-1")
    journal.sending("CreateVolume", {"ClientToken": "t"})
    return journal


def ends_in(directory: Path) -> list[str]:
    return [dead.story.end for dead in dead_journals(directory)]


def run_with_journal(
    directory: Path, *, fails: bool = False, undo_fails: bool = False, on_error: str = ""
) -> RecordingUi:
    ui = RecordingUi()
    journal = journal_in(directory)
    with (
        suppress(BuildError),
        Phases(ui=ui, token=CancelToken(), on_error=on_error, journal=journal) as runner,
    ):
        runner.enter("volume", Recorder().thing("volume", undo_fails=undo_fails))
        if fails:
            runner.do("fail", _fail)
    return ui


def test_a_journal_goes_with_what_it_names(tmp_path: Path) -> None:
    run_with_journal(tmp_path)
    run_with_journal(tmp_path, fails=True)
    assert ends_in(tmp_path) == []


def test_what_an_abort_kept_is_marked_so_in_the_journal(tmp_path: Path) -> None:
    ui = run_with_journal(tmp_path, fails=True, on_error="abort")
    assert ends_in(tmp_path) == ["kept"]
    assert "packer-plugin-osc-chroot reclaim" in ui.text


def test_an_abort_that_cannot_be_marked_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(file: int, mode: int) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "fchmod", refuse)
    ui = run_with_journal(tmp_path, fails=True, on_error="abort")
    (file,) = tmp_path.iterdir()
    assert f"{file} could not be marked (Read-only file system): unless it is moved" in ui.text


def test_what_could_not_be_undone_stays_in_the_journal(tmp_path: Path) -> None:
    ui = run_with_journal(tmp_path, undo_fails=True)
    assert ends_in(tmp_path) == ["failed"]
    _, listed = ui.text.split("Still there, to be removed in this order:\n")
    assert listed.split("\n") == [
        "  volume with ClientToken t",
        "The next build on this VM tries it again; this command does it now:"
        " packer-plugin-osc-chroot reclaim",
    ]


def test_an_undoing_that_fails_does_not_hide_why_the_phase_failed() -> None:
    def undo() -> None:
        raise UndoError("volume vol-1 is left behind", left=["volume vol-1"], hint="Delete it")

    def fail() -> None:
        raise BuildError("the volume never came")

    @contextmanager
    def made() -> Iterator[None]:
        with undoing(undo):
            fail()
            yield

    ui = RecordingUi()
    with pytest.raises(BuildError, match="never came") as caught:
        with Phases(ui=ui, token=CancelToken()) as phases:
            phases.enter("create volume", made)
    assert [str(failure) for failure in phases.failures] == [
        "volume vol-1 is left behind. Delete it"
    ]
    assert "Could not undo create volume: volume vol-1 is left behind" in ui.text
    assert any("vol-1" in note for note in caught.value.__notes__)
