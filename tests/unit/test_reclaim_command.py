"""The command `reclaim`, as far as it needs no build."""

import os
import signal
import time
from pathlib import Path

import pytest

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import Cancelled
from packer_plugin_osc_chroot.journal.directory import STATE_VARIABLE
from packer_plugin_osc_chroot.journal.journal import Journal
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.reclaim.command import cancelled_by_interrupt, main


@pytest.mark.timeout(20)
def test_an_interrupt_amid_the_token_s_own_work_does_not_hang() -> None:
    token = CancelToken(reason="interrupted")
    before = signal.getsignal(signal.SIGINT)
    with cancelled_by_interrupt(token):
        with token._lock:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.05)
        with pytest.raises(Cancelled, match="interrupted"):
            token.sleep(10)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_journal_that_came_with_a_disk_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is nobody's to undo here, and each build would tell of it for ever."""
    with LocalCloud() as cloud:
        environ = {**cloud.environment(), STATE_VARIABLE: str(tmp_path)}
        journal = Journal(tmp_path)
        journal.begin(
            vm_id=cloud.vm_id, region=environ["OSC_REGION"], endpoint=environ["OSC_ENDPOINT_API"]
        )
        journal.sending("CreateVolume", {"ClientToken": "t"})
        journal.end(kept=False, failed=True)
        assert main(["--vm-id", "i-99999999"], environ=environ) == 1
        (file,) = tmp_path.iterdir()
        said = capsys.readouterr().err
        assert f"it ran on VM {cloud.vm_id}, which is another one: run reclaim there" in said
        assert f"remove {file}" in said


@pytest.mark.parametrize("hours", ["nan", "-1", "six"])
def test_an_age_that_is_none(hours: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every volume would be old enough to be removed, one of a living build of another user too."""
    with pytest.raises(SystemExit) as caught:
        main(["--orphans", f"--hours={hours}"], environ={})
    assert caught.value.code == 2
    assert f"--hours: {hours}: expected a number of hours" in capsys.readouterr().err
