"""`localcloud status`, where none, one or several Regions run. Needs no root."""

import fcntl
import json
import os
import secrets
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from packer_plugin_osc_chroot.localcloud import control, remains
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.command import main


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One on which no other localcloud runs."""
    for module in (control, remains):
        monkeypatch.setattr(module, "runtime_directory", lambda: tmp_path / "run")


@pytest.fixture
def running() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_nothing_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 0
    assert capsys.readouterr().out == "no localcloud runs here\n"
    assert main(["status", "--exports"]) == 2
    assert "no localcloud runs here: `localcloud serve` starts one" in capsys.readouterr().err


def test_one_runs(running: ExitStack, capsys: pytest.CaptureFixture[str]) -> None:
    cloud = running.enter_context(LocalCloud())
    assert main(["status", "--exports"]) == 0
    assert cloud.environment()["OSC_ACCESS_KEY"] in capsys.readouterr().out


def test_of_several_one_is_named(running: ExitStack, capsys: pytest.CaptureFixture[str]) -> None:
    clouds = [running.enter_context(LocalCloud()) for _ in range(2)]
    assert main(["status", "--exports"]) == 2
    assert "2 localclouds run here: say which with --state DIR" in capsys.readouterr().err
    assert main(["status"]) == 0
    shown = capsys.readouterr().out
    for cloud in clouds:
        directory = str(Path(cloud.environment()["OSC_CONFIG_FILE"]).parent)
        assert f"Region at {cloud.url}" in shown and directory in shown
        assert main(["status", "--exports", "--state", directory]) == 0
        assert cloud.environment()["OSC_ACCESS_KEY"] in capsys.readouterr().out


def test_what_a_script_is_told(running: ExitStack, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"regions": []}
    cloud = running.enter_context(LocalCloud())
    assert main(["status", "--json"]) == 0
    (region,) = json.loads(capsys.readouterr().out)["regions"]
    assert (region["url"], region["made"], region["left_over"]) == (cloud.url, [], [])
    assert region["sources"] and region["pid"] == os.getpid()
    with pytest.raises(SystemExit):
        main(["status", "--json", "--exports"])


def test_one_that_is_being_started_is_not_in_the_way(
    running: ExitStack, capsys: pytest.CaptureFixture[str]
) -> None:
    starting = remains.register()
    running.callback(starting.remove)
    assert main(["status"]) == 0
    assert capsys.readouterr().out == "no localcloud runs here\n"
    cloud = running.enter_context(LocalCloud())
    assert main(["status"]) == 0
    assert f"Region at {cloud.url}" in capsys.readouterr().out
    assert main(["status", "--exports"]) == 0


def test_one_that_ends_meanwhile_is_no_matter_of_the_others(
    running: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    staying, ending = (running.enter_context(LocalCloud()) for _ in range(2))
    gone = Path(ending.environment()["OSC_CONFIG_FILE"]).parent.name.rpartition("-")[2]
    looked_at = Path.lstat

    def lstat(path: Path) -> os.stat_result:
        if path.name == gone:
            raise FileNotFoundError(path)
        return looked_at(path)

    monkeypatch.setattr(Path, "lstat", lstat)
    (found,) = control.running()
    assert found.ask("about")["url"] == staying.url


def test_one_is_started_while_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    remains.register().remove()
    name = secrets.token_hex(6)
    monkeypatch.setattr(secrets, "token_hex", lambda length: name)
    with open(remains.runtime_directory() / "clouds" / name, "w") as entry:
        fcntl.flock(entry, fcntl.LOCK_SH)
        threading.Timer(0.2, fcntl.flock, [entry, fcntl.LOCK_UN]).start()
        remains.register().remove()
