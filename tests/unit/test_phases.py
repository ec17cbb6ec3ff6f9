"""The runner: order of undoing, drafts, cancel, the journal, and errors that hide nothing."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from phase_recorder import Recorder, fail, phases

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, Cancelled, UndoError
from packer_plugin_osc_chroot.journal.dead import dead_journals
from packer_plugin_osc_chroot.journal.journal import Journal
from packer_plugin_osc_chroot.phases import Phases
from packer_plugin_osc_chroot.ui import RecordingUi
from packer_plugin_osc_chroot.undoing import undoing


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
        runner.do("fail", fail)
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
        runner.do("fail", fail)
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
        runner.do("fail", fail)
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
        runner.do("fail", fail)
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
        runner.do("fail", fail)
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
        runner.do("fail", fail)
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
            runner.do("fail", fail)
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


def test_a_phase_that_ends_with_what_it_could_not_undo_stays_in_the_journal(
    tmp_path: Path,
) -> None:
    def mount() -> None:
        raise UndoError("mounting goes on in the kernel", left=["17 mount"])

    with pytest.raises(UndoError, match="goes on"):
        with Phases(ui=RecordingUi(), token=CancelToken(), journal=journal_in(tmp_path)) as runner:
            runner.do("mount", mount)
    assert ends_in(tmp_path) == ["failed"]


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
