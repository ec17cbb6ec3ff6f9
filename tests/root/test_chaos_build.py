"""Chaos: a failure, a cancel and a SIGKILL at every thing that a build does, in turn.

`make chaos` runs all of it; else a sample, drawn from a seed that is printed.
"""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import chaos_child
import pytest
from chaos_points import WHENS, Chaos, Points, When
from guest_image import check_filesystem
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
    monkeypatch.setattr(wait, "SETTLE_SECONDS", 0.3)


# What each kind of build has beside the options of all.
KINDS: dict[str, dict[str, Any]] = {
    "source": {},
    "scratch": {
        "source_omi": "",
        "omi_description": "",
        "snapshot_tags": {},
        "from_scratch": True,
        "root_volume_size": 1,
        "pre_mount_commands": (
            "parted -s {{.Device}} mklabel msdos mkpart primary 1M 100%",
            "mkfs.ext4 -q {{.Device}}1",
        ),
    },
}


def config(kind: str, name: str) -> Config:
    return Config(**{**vars(OPTIONS), **KINDS[kind], "omi_name": name})


def all_points(cloud: LocalCloud, kind: str) -> list[str]:
    """What a build does that nothing happens to."""
    with Points(0, "before", lambda name: None).installed() as points:
        run(cloud, config=config(kind, "undisturbed"))
    return points.names


def state_of(cloud: LocalCloud) -> Path:
    return Path(cloud.environment()[STATE_VARIABLE])


def reclaim(cloud: LocalCloud) -> None:
    assert command.main([], environ=cloud.environment()) == 0


def contents(cloud: LocalCloud, image_id: str, at: Path) -> dict[str, tuple[int, bytes]]:
    """Mode and content of each thing in the OMI, whose filesystem is sound."""
    image = cloud.root_image(image_id)
    check_filesystem(image)
    found: dict[str, tuple[int, bytes]] = {}
    with mounted(image, at) as root:
        for path in sorted(root.rglob("*")):
            status = path.lstat()
            content = b""
            if stat.S_ISLNK(status.st_mode):
                content = os.fsencode(os.readlink(path))
            elif stat.S_ISREG(status.st_mode):
                content = path.read_bytes()
            found[str(path.relative_to(root))] = status.st_mode, content
    assert found["made"][1] == b"yes\n"
    return found


def check(
    cloud: LocalCloud,
    where: str,
    *,
    name: str,
    scratch: Path,
    expected: Mapping[str, tuple[int, bytes]],
) -> bool:
    """Whether the OMI is there. It is whole then, and like that of an undisturbed build; and nothing
    else is left."""
    assert cloud.leftovers() == [], where
    assert cloud.defects == [], where
    assert [*state_of(cloud).iterdir()] == [], where
    images = cloud.images()
    assert len(live_snapshots(cloud)) == len(images), where
    image = next((each for each in images if each.name == name), None)
    if image is None:
        return False
    assert image.state == "available", where
    assert contents(cloud, image.image_id, scratch) == expected, where
    return True


def undisturbed(cloud: LocalCloud, at: Path) -> dict[str, tuple[int, bytes]]:
    (image,) = cloud.images()
    return contents(cloud, image.image_id, at)


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
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["fail", "cancel"])
def test_chaos_in_a_living_process(chaos: Chaos, what: str, kind: str, tmp_path: Path) -> None:
    whens: tuple[When, ...] = WHENS if what == "cancel" else ("before", "after")
    with LocalCloud() as cloud:
        names = all_points(cloud, kind)
        expected = undisturbed(cloud, tmp_path)
        injections = [(nth, when) for nth in range(1, len(names) + 1) for when in whens]
        for nth, when in chaos.draw(injections, sample=8):
            token, ui = CancelToken(), RecordingUi()
            strikes: dict[str, Callable[[str], None]] = {"before": fail_before, "after": fail_after}

            def cancel(name: str, token: CancelToken = token) -> None:
                token.cancel()

            omi_name = f"chaos {what} {nth} {when}"
            with Points(nth, when, cancel if what == "cancel" else strikes[when]).installed() as at:
                try:
                    run(cloud, config=config(kind, omi_name), ui=ui, token=token)
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
            is_there = check(cloud, where, name=omi_name, scratch=tmp_path, expected=expected)
            assert is_there == (end == "made"), where


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS)
def test_chaos_of_kill_9(
    chaos: Chaos, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with LocalCloud() as cloud:
        names = all_points(cloud, kind)
        expected = undisturbed(cloud, tmp_path)
        injections = [(nth, when) for nth in range(1, len(names) + 1) for when in WHENS]
        for nth, when in chaos.draw(injections, sample=10):
            omi_name = f"chaos kill {nth} {when}"
            done = subprocess.run(
                [sys.executable, chaos_child.__file__, str(nth), when, omi_name],
                env=cloud.child_environment(os.environ)
                | {"CHAOS_OPTIONS": json.dumps(KINDS[kind])},
                capture_output=True,
                text=True,
                check=False,
            )
            where = f"{omi_name}: {done.stdout}{done.stderr}"
            reclaim(cloud)
            is_there = check(
                cloud,
                where + capsys.readouterr().out,
                name=omi_name,
                scratch=tmp_path,
                expected=expected,
            )
            assert done.stdout.startswith(("made", "struck", "failed")), where
            assert is_there or not done.stdout.startswith("made"), where
            chaos.ends["made" if is_there else "killed and reclaimed"] += 1
