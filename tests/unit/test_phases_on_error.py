"""What the runner does by -on-error and -debug, and what it says of what is left."""

import gc
from contextlib import AbstractContextManager

import pytest
from phase_recorder import Recorder, fail, phases

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, Cancelled, CloudError, UndoError
from packer_plugin_osc_chroot.phases import Phases
from packer_plugin_osc_chroot.resources.removal import Attempt, Removal
from packer_plugin_osc_chroot.ui import RecordingUi


def _removal() -> Removal:
    return Removal(
        kind="OMI",
        action="DeleteImage",
        parameter="ImageId",
        unnamed='named "x"',
        find=lambda token: None,
        delete=lambda key, token: None,
    )


@pytest.mark.parametrize("on_error", ["abort", "run-cleanup-provisioner"])
def test_abort_keeps_everything_and_lists_it(on_error: str) -> None:
    made, ui = Recorder(), RecordingUi()
    with pytest.raises(BuildError), phases(ui, on_error=on_error) as runner:
        runner.enter("volume", made.thing("volume"))
        runner.do("fail", fail)
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
        with runner.draft("snapshot", fail, describe=lambda: "snapshot snap-1"):
            pass
        with (
            runner.draft("OMI", fail, describe=lambda: _removal().describe(refused)),
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
        fail()
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
        fail()
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
        runner.do("fail", fail)
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


def test_debug_without_a_terminal_does_not_pause() -> None:
    class Deaf(RecordingUi):
        def ask(self, query: str) -> str:
            raise BuildError("no answer from the user: no available tty")

    with phases(Deaf(), debug=True) as runner:
        assert runner.do("a", lambda: 1) == 1
