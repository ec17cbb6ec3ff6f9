"""The command `reclaim`, as far as it needs no build."""

import json
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


def test_json_has_one_shape_whatever_happens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = {"builds": [], "orphans": [], "errors": [], "complete": True}
    with LocalCloud() as cloud:
        environ = {**cloud.environment(), STATE_VARIABLE: str(tmp_path)}
        assert main(["--json"], environ=environ) == 0
        assert json.loads(capsys.readouterr().out) == shape
        (tmp_path / "x.journal").mkdir()
        os.mkfifo(tmp_path / "y.journal")
        assert main(["--json", "--dry-run"], environ=environ) == 1
        said = json.loads(capsys.readouterr().out)
        left = [f"{tmp_path}/{name}.journal: left alone: is no file" for name in "xy"]
        assert said == {**shape, "errors": left, "complete": False}
        tmp_path.chmod(0o777)
        assert main(["--json"], environ=environ) == 1
        said = json.loads(capsys.readouterr().out)
    assert said.keys() == shape.keys() and not said["complete"]
    assert "mode 777" in said["errors"][0]


def test_wrong_keys_are_not_tried_for_each_journal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four wrong signatures in a row lock a key."""
    with LocalCloud() as cloud:
        environ = {**cloud.environment(), STATE_VARIABLE: str(tmp_path)}
        for _ in range(6):
            journal = Journal(tmp_path)
            region, endpoint = environ["OSC_REGION"], environ["OSC_ENDPOINT_API"]
            journal.begin(vm_id=cloud.vm_id, region=region, endpoint=endpoint)
            journal.sending("CreateVolume", {"ClientToken": "t"})
            journal.end(kept=False, failed=True)
        assert main([], environ={**environ, "OSC_SECRET_KEY": "x" * 40}) == 1
        assert sum(call.status == 401 for call in cloud.record) <= 2
    assert capsys.readouterr().err.count("Left alone") == 6
    assert len([*tmp_path.iterdir()]) == 6


@pytest.mark.parametrize("hours", ["nan", "-1", "six"])
def test_an_age_that_is_none(hours: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every volume would be old enough to be removed, one of a living build of another user too."""
    with pytest.raises(SystemExit) as caught:
        main(["--orphans", f"--hours={hours}"], environ={})
    assert caught.value.code == 2
    assert f"--hours: {hours}: expected a number of hours" in capsys.readouterr().err
