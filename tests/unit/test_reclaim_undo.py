"""Undoing a dead build: what must not be done to what may be others'."""

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.context import Context, Provisioners
from packer_plugin_osc_chroot.errors import BuildError, UndoError
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.journal.dead import dead_journals, has_journals
from packer_plugin_osc_chroot.journal.directory import STATE_VARIABLE
from packer_plugin_osc_chroot.journal.journal import Journal
from packer_plugin_osc_chroot.journal.story import About, Effect, Story
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.reclaim.after_death import undo_after_death
from packer_plugin_osc_chroot.reclaim.undo import undo_journal, undo_story
from packer_plugin_osc_chroot.redaction import Redactor
from packer_plugin_osc_chroot.template.engine import Scope
from packer_plugin_osc_chroot.ui import RecordingUi


class Untouchable:
    """An API that nobody may call."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was called")


ABOUT = About(
    vm_id="i-1",
    region="r",
    endpoint="e",
    account_id="a",
    omi_name="n",
    boot_id="another",
    pid=os.getpid(),
    at=0,
)


def test_what_nothing_identifies_is_not_looked_for() -> None:
    effects = [Effect("CreateSnapshot", {}), Effect("CreateVolume", {"VolumeId": "vol-1"})]
    left = undo_story(
        Story(ABOUT, effects),
        Untouchable(),  # type: ignore[arg-type]
        host=Host(),
        ui=RecordingUi(),
        token=CancelToken(),
    )
    assert left == []


def test_a_defect_keeps_nothing_else_from_being_undone() -> None:
    effects = [Effect("CreateVolume", {"ClientToken": "t"})] * 2
    api, ui = Untouchable(), RecordingUi()
    failures = undo_story(
        Story(ABOUT, effects), cast(Cloud, api), host=Host(), ui=ui, token=CancelToken()
    )
    assert len(failures) == 2
    assert ui.text.count("Could not undo: a defect of the plugin: AssertionError('pages was") == 2


def test_an_interrupt_is_not_called_a_deadline() -> None:
    outer = CancelToken(reason="interrupted")

    class Interrupted:
        def pages(self, action: str, key: str, *, token: CancelToken, **body: Any) -> list[Any]:
            outer.cancel()
            token.check()
            return []

    failures = undo_story(
        Story(ABOUT, [Effect("CreateVolume", {"ClientToken": "t"})]),
        Interrupted(),  # type: ignore[arg-type]
        host=Host(),
        ui=RecordingUi(),
        token=outer,
    )
    left = "volume with ClientToken t is left behind: interrupted"
    assert [failure.message for failure in failures] == [left, "interrupted"]


@pytest.mark.parametrize("interrupted", [False, True])
def test_only_what_could_not_be_undone_gets_less_time_the_next_time(
    tmp_path: Path, interrupted: bool
) -> None:
    outer = CancelToken(reason="interrupted")

    class Refusing:
        def pages(self, action: str, key: str, *, token: CancelToken, **body: Any) -> list[Any]:
            if interrupted:
                outer.cancel()
                token.check()
            raise BuildError("refused")

    journal = Journal(tmp_path)
    journal.begin(vm_id="i-1", region="r", endpoint="e", omi_name="n")
    journal.sending("CreateVolume", {"ClientToken": "t"})
    # As if it had been killed.
    os.close(journal._file)
    api = cast(Cloud, Refusing())
    for dead in dead_journals(tmp_path):
        assert undo_journal(dead, api, host=Host(), ui=RecordingUi(), token=outer)
    assert [dead.story.end for dead in dead_journals(tmp_path)] == ["" if interrupted else "failed"]


def test_credentials_that_do_not_show_the_vm_undo_nothing(tmp_path: Path) -> None:
    with LocalCloud() as cloud:
        environ = {**cloud.environment(), STATE_VARIABLE: str(tmp_path)}
        journal = Journal(tmp_path)
        journal.begin(
            vm_id="i-99999999",
            region=environ["OSC_REGION"],
            endpoint=environ["OSC_ENDPOINT_API"],
            omi_name="n",
        )
        volume = {"ClientToken": "t"}
        number = journal.sending("CreateVolume", volume)
        answer = {"Volume": {"VolumeId": "vol-99999999"}}
        journal.answered(number, "CreateVolume", volume, answer)
        journal.end(kept=False, failed=True)
        context = Context(
            config=Config(vm_id="i-99999999"),
            scope=Scope(started_at=datetime.now(UTC)),
            ui=RecordingUi(),
            token=CancelToken(),
            provisioners=cast(Provisioners, None),
            environ=environ,
            redact=Redactor(),
        )
        with pytest.raises(UndoError, match="i-99999999 .this one. is not shown"):
            undo_after_death(context)
        assert has_journals(tmp_path)
