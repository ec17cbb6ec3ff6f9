"""Builds that fail, are cancelled or lose a process: nothing of them is left, and it is soon over."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import victims
from conftest import SOURCE_OMI
from leaks import Machine
from packer_run import Packer, Running

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud

pytestmark = pytest.mark.e2e

# A cancel is to be noticed within a second; packer and a busy machine of two cores add to it.
CANCEL_SECONDS = 3.0
# Undoing a build that nobody waits for: a few calls, and the simulated waits of the cloud.
UNDO_SECONDS = 30.0

TEMPLATE = """
source "osc-chroot" "guest" {{
  source_omi          = "ami-00000001"
  omi_name            = "never made"
  pre_mount_commands  = ["{before}"]
  post_mount_commands = ["{after}"]
}}

build {{
  sources = ["source.osc-chroot.guest"]
  provisioner "shell" {{
    inline = ["echo in the chroot", "{inside}"]
  }}
  error-cleanup-provisioner "shell" {{
    inline = ["echo cleaning up after an error"]
  }}
}}
"""


@pytest.fixture
def slow_cloud(guest_image: Path, leak_check: Machine) -> Iterator[LocalCloud]:
    """A Region whose waits are long enough to be interrupted."""
    sources = {SOURCE_OMI: guest_image}
    with LocalCloud(latency="typical", source_omis=sources) as cloud:
        yield cloud


def start(
    packer: Packer,
    cloud: LocalCloud,
    directory: Path,
    *,
    before: str = "true",
    after: str = "true",
    inside: str = "true",
    options: tuple[str, ...] = (),
) -> Running:
    template = write(directory, before=before, after=after, inside=inside)
    return packer.start("build", "-color=false", *options, template, cwd=directory, cloud=cloud)


def write(
    directory: Path, *, before: str = "true", after: str = "true", inside: str = "true"
) -> str:
    """The template's name."""
    template = directory / "guest.pkr.hcl"
    template.write_text(TEMPLATE.format(before=before, after=after, inside=inside))
    return template.name


def assert_undone(cloud: LocalCloud, output: str) -> None:
    """The Region is as before, once the undoing has had its time."""
    deadline = time.monotonic() + UNDO_SECONDS
    while (left := cloud.leftovers()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == [], output
    assert cloud.defects == [], output
    assert cloud.images() == [], output
    live = [each for each in cloud.snapshots() if each.state != "deleting"]
    assert live == [], output


def test_a_failing_provisioner(packer: Packer, cloud: LocalCloud, tmp_path: Path) -> None:
    outcome = start(packer, cloud, tmp_path, inside="exit 7").wait()
    assert outcome.status == 1
    assert "non-zero exit status: 7" in outcome.output
    assert "cleaning up after an error" in outcome.output
    assert_undone(cloud, outcome.output)


def test_a_failing_command_on_the_host(packer: Packer, cloud: LocalCloud, tmp_path: Path) -> None:
    outcome = start(packer, cloud, tmp_path, before="echo why >&2; exit 3").wait()
    assert outcome.status == 1
    assert "failed with status 3: why" in outcome.output
    assert_undone(cloud, outcome.output)


@pytest.mark.parametrize(
    ("where", "commands"),
    [
        ("Running on this VM: sleep 60", {"before": "sleep 60"}),
        ("Running on this VM: sleep 61", {"after": "sleep 61"}),
        ("in the chroot", {"inside": "trap '' TERM; sleep 62"}),
    ],
    ids=["before mounting", "mounting", "provisioning"],
)
def test_ctrl_c(
    packer: Packer, cloud: LocalCloud, tmp_path: Path, where: str, commands: dict[str, str]
) -> None:
    build = start(packer, cloud, tmp_path, **commands)  # type: ignore[arg-type]
    build.wait_for(where)
    time.sleep(0.3)
    pressed = time.monotonic()
    build.interrupt()
    outcome = build.wait()
    assert time.monotonic() - pressed < CANCEL_SECONDS, outcome.output
    assert outcome.status == 1
    assert "build was cancelled" in outcome.output
    assert_undone(cloud, outcome.output)


def test_ctrl_c_while_a_provisioner_retries(
    packer: Packer, cloud: LocalCloud, tmp_path: Path
) -> None:
    """Packer's shell provisioner tries its own clean-up again for minutes where there is no shell."""
    build = start(packer, cloud, tmp_path, inside="rm /bin/sh; echo no shell any more")
    build.wait_for("no shell any more")
    time.sleep(1.0)
    pressed = time.monotonic()
    build.interrupt()
    outcome = build.wait()
    assert time.monotonic() - pressed < CANCEL_SECONDS + 1.0, outcome.output
    assert_undone(cloud, outcome.output)


def test_ctrl_c_amid_a_flood_of_output(packer: Packer, cloud: LocalCloud, tmp_path: Path) -> None:
    build = start(packer, cloud, tmp_path, before="yes some words of a long story")
    build.wait_for("some words of a long story")
    time.sleep(3.0)
    (service,) = victims.services(build)
    held = int(Path(f"/proc/{service}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    pressed = time.monotonic()
    build.interrupt()
    outcome = build.wait()
    assert time.monotonic() - pressed < CANCEL_SECONDS + 1.0
    assert "lines are not shown: the build was cancelled" in outcome.output
    assert held < 160 << 20
    assert_undone(cloud, outcome.output[-4000:])


@pytest.mark.parametrize("on_error", ["abort", "cleanup"])
def test_on_error(packer: Packer, cloud: LocalCloud, tmp_path: Path, on_error: str) -> None:
    options = (f"-on-error={on_error}",)
    outcome = start(packer, cloud, tmp_path, inside="exit 7", options=options).wait()
    assert outcome.status == 1
    kept = cloud.leftovers()
    if on_error == "abort":
        assert any(each.startswith("volume") for each in kept), outcome.output
        _, listed = outcome.output.split("Still there, to be removed in this order:")
        for what in ("mount of /dev/", "link of volume vol-", "volume vol-"):
            assert f"  {what}" in listed
        assert "packer-plugin-osc-chroot reclaim" in listed
        _reclaim(packer, cloud)
    assert_undone(cloud, outcome.output)


def _reclaim(packer: Packer, cloud: LocalCloud) -> None:
    done = subprocess.run(
        [packer.plugin, "reclaim"],
        env=packer.environment(cloud),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("where", ["Creating a volume", "Linking the volume", "Snapshot: snap-"])
def test_ctrl_c_while_waiting(
    packer: Packer, slow_cloud: LocalCloud, tmp_path: Path, where: str
) -> None:
    build = start(packer, slow_cloud, tmp_path)
    build.wait_for(where)
    time.sleep(0.5)
    build.interrupt()
    outcome = build.wait()
    assert outcome.status == 1
    assert "build was cancelled" in outcome.output
    assert_undone(slow_cloud, outcome.output)


def test_ctrl_c_twice_changes_nothing(
    packer: Packer, slow_cloud: LocalCloud, tmp_path: Path
) -> None:
    build = start(packer, slow_cloud, tmp_path)
    # Its volume is being unlinked, which takes a while here.
    build.wait_for("Snapshot: snap-")
    build.interrupt()
    build.wait_for("Taking back what was made")
    before = build.output
    build.interrupt()
    outcome = build.wait()
    assert_undone(slow_cloud, outcome.output)
    assert "Deleting volume" in outcome.output.removeprefix(before)
    assert "build was cancelled" in outcome.output


@pytest.mark.parametrize("stage", ["provisioning", "snapshot"])
def test_kill_9_of_the_service(
    packer: Packer, slow_cloud: LocalCloud, tmp_path: Path, stage: str
) -> None:
    """The shim starts another, which undoes the build; the build ends with one error."""
    where, inside = ("Snapshot: snap-", "true")
    if stage == "provisioning":
        where, inside = ("in the chroot", "sleep 60")
    build = start(packer, slow_cloud, tmp_path, inside=inside)
    build.wait_for(where)
    time.sleep(0.5)
    os.kill(victims.service(build), signal.SIGKILL)
    outcome = build.wait()
    assert outcome.status == 1
    error = "ended unexpectedly (signal: killed); what the build had made is undone"
    # Core prints an error twice; nobody else does.
    assert outcome.output.count(error) == 2, outcome.output
    assert slow_cloud.leftovers() == [], outcome.output
    assert_undone(slow_cloud, outcome.output)


def test_kill_9_of_service_and_shim(packer: Packer, slow_cloud: LocalCloud, tmp_path: Path) -> None:
    build = start(packer, slow_cloud, tmp_path, inside="sleep 60")
    build.wait_for("in the chroot")
    for pid in (victims.shim(build), victims.service(build)):
        os.kill(pid, signal.SIGKILL)
    outcome = build.wait()
    assert slow_cloud.leftovers() != []
    _reclaim(packer, slow_cloud)
    assert slow_cloud.leftovers() == [], outcome.output
    assert_undone(slow_cloud, outcome.output)


@pytest.mark.parametrize("stage", ["provisioning", "snapshot"])
@pytest.mark.parametrize(
    "victim",
    [victims.wrapper, victims.core, victims.shim],
    ids=["packer's wrapper", "packer", "shim"],
)
def test_kill_9(
    packer: Packer,
    cloud: LocalCloud,
    slow_cloud: LocalCloud,
    tmp_path: Path,
    victim: Callable[[Running], int],
    stage: str,
) -> None:
    if stage == "snapshot":
        region, where, inside = slow_cloud, "Snapshot: snap-", "true"
    else:
        region, where, inside = cloud, "in the chroot", "sleep 60"
    build = start(packer, region, tmp_path, inside=inside)
    build.wait_for(where)
    os.kill(victim(build), signal.SIGKILL)
    # Its status says nothing: packer's wrapper ends with 0 when its child is killed.
    outcome = build.wait()
    assert_undone(region, outcome.output)


def test_sigterm_to_packer(packer: Packer, cloud: LocalCloud, tmp_path: Path) -> None:
    build = start(packer, cloud, tmp_path, inside="sleep 60")
    build.wait_for("in the chroot")
    os.kill(build.pid, signal.SIGTERM)
    outcome = build.wait()
    assert_undone(cloud, outcome.output)


def test_sigterm_to_the_shim(packer: Packer, cloud: LocalCloud, tmp_path: Path) -> None:
    build = start(packer, cloud, tmp_path, inside="sleep 60")
    build.wait_for("in the chroot")
    os.kill(victims.shim(build), signal.SIGTERM)
    outcome = build.wait()
    assert outcome.status == 1
    assert_undone(cloud, outcome.output)
