"""Chaos: a failure, a cancel and a SIGKILL at every thing that a build does, in turn.

`make chaos` runs all of it; else a sample, drawn from a seed that is printed.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import chaos_child
import pytest
from chaos_points import WHENS, Chaos, Points, When
from in_process import OPTIONS, live_snapshots, mounted, run

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud import client, wait
from packer_plugin_osc_chroot.errors import BuildError, Cancelled, CloudError, CommandError
from packer_plugin_osc_chroot.journal.directory import STATE_VARIABLE
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.reclaim import command
from packer_plugin_osc_chroot.ui import RecordingUi

pytestmark = pytest.mark.root


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """This Region shows at once what it has."""
    monkeypatch.setattr(client, "_RETRY_PAUSE", 0.1)
    monkeypatch.setattr(wait, "SETTLE_SECONDS", 1.0)


def named(name: str) -> Config:
    return Config(**{**vars(OPTIONS), "omi_name": name})


def all_points(cloud: LocalCloud) -> list[str]:
    """What a build does that nothing happens to."""
    with Points(0, "before", lambda name: None).installed() as points:
        run(cloud, config=named("undisturbed"))
    return points.names


def state_of(cloud: LocalCloud) -> Path:
    return Path(cloud.environment()[STATE_VARIABLE])


def reclaim(cloud: LocalCloud) -> None:
    assert command.main([], environ=cloud.environment()) == 0


def check(cloud: LocalCloud, where: str, *, name: str, scratch: Path) -> bool:
    """Whether the OMI is there. It is whole then; and nothing else is left."""
    assert cloud.leftovers() == [], where
    assert cloud.defects == [], where
    assert [*state_of(cloud).iterdir()] == [], where
    images = cloud.images()
    assert len(live_snapshots(cloud)) == len(images), where
    image = next((each for each in images if each.name == name), None)
    if image is None:
        return False
    assert image.state == "available", where
    with mounted(cloud.root_image(image.image_id), scratch) as root:
        assert (root / "made").read_text() == "yes\n", where
    return True


def fail_before(name: str) -> None:
    fail(name, CloudError("chaos", action=name.split()[-1], status=400))


def fail_after(name: str) -> None:
    """Done, and nobody is told: the answer is lost, a command says that it failed."""
    fail(name, CloudError("chaos", action=name.split()[-1], status=0))


def fail(name: str, cloud_error: CloudError) -> None:
    match name.split()[0]:
        case "call" | "trial":
            raise cloud_error
        case "command":
            raise CommandError("chaos", status=1)
        case _:
            raise OSError(28, "chaos")


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["fail", "cancel"])
def test_chaos_in_a_living_process(chaos: Chaos, kind: str, tmp_path: Path) -> None:
    whens: tuple[When, ...] = WHENS if kind == "cancel" else ("before", "after")
    with LocalCloud() as cloud:
        names = all_points(cloud)
        injections = [(nth, when) for nth in range(1, len(names) + 1) for when in whens]
        for nth, when in chaos.draw(injections, sample=12):
            token, ui = CancelToken(), RecordingUi()
            strikes: dict[str, Callable[[str], None]] = {"before": fail_before, "after": fail_after}

            def cancel(name: str, token: CancelToken = token) -> None:
                token.cancel()

            omi_name = f"chaos {kind} {nth} {when}"
            with Points(nth, when, cancel if kind == "cancel" else strikes[when]).installed() as at:
                try:
                    run(cloud, config=named(omi_name), ui=ui, token=token)
                    end = "made"
                except Cancelled:
                    end = "cancelled"
                except BuildError:
                    end = "failed"
            where = f"{omi_name}: {at.struck}\n{ui.text}"
            if [*state_of(cloud).iterdir()]:
                # Undoing itself was struck: that is said, and done by the next who comes.
                assert "Could not undo" in ui.text, where
                reclaim(cloud)
                chaos.ends["undone by reclaim"] += 1
            else:
                chaos.ends[end] += 1
            is_there = check(cloud, where, name=omi_name, scratch=tmp_path)
            assert is_there == (end == "made"), where


@pytest.mark.timeout(3600)
def test_chaos_of_kill_9(chaos: Chaos, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with LocalCloud() as cloud:
        names = all_points(cloud)
        injections = [(nth, when) for nth in range(1, len(names) + 1) for when in WHENS]
        for nth, when in chaos.draw(injections, sample=15):
            omi_name = f"chaos kill {nth} {when}"
            done = subprocess.run(
                [sys.executable, chaos_child.__file__, str(nth), when, omi_name],
                env=cloud.child_environment(os.environ),
                capture_output=True,
                text=True,
                check=False,
            )
            where = f"{omi_name}: {done.stdout}{done.stderr}"
            reclaim(cloud)
            is_there = check(
                cloud, where + capsys.readouterr().out, name=omi_name, scratch=tmp_path
            )
            assert done.stdout.startswith(("made", "struck", "failed")), where
            assert is_there or not done.stdout.startswith("made"), where
            chaos.ends["made" if is_there else "killed and reclaimed"] += 1
