"""Chaos with the real packer: processes are killed, or the build is cancelled, at any moment.

`make chaos` runs more of it; `make test` a few, drawn from a seed that is printed.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import victims
from chaos_points import Chaos
from conftest import SOURCE_OMI
from guest_image import check_filesystem, read_file
from leaks import Machine, processes_of
from packer_run import Packer, Running

from packer_plugin_osc_chroot.journal.directory import STATE_VARIABLE
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.latency import Latency

pytestmark = pytest.mark.e2e

# A build on it takes some four seconds, and every wait is long enough to be hit.
LATENCY = Latency(call=0.02, volume=0.4, link=0.3, unlink=0.3, snapshot=1.2, image=0.3)
LONGEST = 5.0
ROUNDS = 3
# Until what nobody waits for has been undone.
QUIET_SECONDS = 40.0

KINDS = {
    "source": """
  source_omi = "ami-00000001"
""",
    "scratch": """
  from_scratch            = true
  root_volume_size        = 1
  omi_virtualization_type = "hvm"
  root_device_name        = "/dev/sda1"
  omi_block_device_mappings {
    device_name           = "/dev/sda1"
    delete_on_vm_deletion = true
  }
  pre_mount_commands = [
    "parted --script {{.Device}} mklabel msdos mkpart primary 1M 100%",
    "mkfs.ext4 -q {{.Device}}1",
  ]
  post_mount_commands = [
    "mkdir -p {{.MountPath}}/bin {{.MountPath}}/tmp",
    "cp -a /bin/busybox {{.MountPath}}/bin/",
    "for name in sh chmod rm sleep; do ln -s busybox {{.MountPath}}/bin/$name; done",
  ]
""",
}
KINDS["two"] = KINDS["source"]

TEMPLATE = """
source "osc-chroot" "guest" {{
{options}
}}

build {{
  dynamic "source" {{
    for_each = {names}
    labels   = ["osc-chroot.guest"]
    content {{
      name     = source.value
      omi_name = "chaos ${{source.value}}"
    }}
  }}
  provisioner "shell" {{
    inline = ["echo made >/made", "sleep 0.5"]
  }}
}}
"""


def kill(*found: Callable[[Running], list[int] | int]) -> Callable[[Running], None]:
    def strike(build: Running) -> None:
        pids: list[int] = []
        # The build may be over by now.
        with suppress(IndexError, FileNotFoundError, ProcessLookupError):
            for find in found:
                pid = find(build)
                pids += [pid] if isinstance(pid, int) else pid
            for each in pids:
                os.kill(each, signal.SIGKILL)

    return strike


STRIKES: dict[str, Callable[[Running], None]] = {
    "Ctrl-C": lambda build: build.interrupt(),
    "SIGTERM to packer": lambda build: os.kill(build.pid, signal.SIGTERM),
    "kill service": kill(victims.services),
    "kill shim": kill(victims.shims),
    "kill packer": kill(victims.core),
    "kill packer's wrapper": kill(victims.wrapper),
    "kill service and shim": kill(victims.shims, victims.services),
    "kill all": kill(victims.shims, victims.services, victims.core, victims.wrapper),
}
# Nobody is left to undo it: the next who comes does.
TOTAL = ("kill service and shim", "kill all")
# Nobody is left to be told of an OMI that was complete by then.
UNTOLD = ("kill shim", "kill packer", "kill packer's wrapper", *TOTAL)


def quiet(machine: Machine) -> None:
    deadline = time.monotonic() + QUIET_SECONDS
    while running := [*processes_of(machine.temporary)]:
        assert time.monotonic() < deadline, f"still running: {running}"
        time.sleep(0.05)


def reclaim(packer: Packer, cloud: LocalCloud) -> str:
    done = subprocess.run(
        [packer.plugin, "reclaim"],
        env=packer.environment(cloud),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.mark.timeout(3600)
def test_chaos(
    packer: Packer, guest_image: Path, leak_check: Machine, tmp_path: Path, chaos: Chaos
) -> None:
    moments = [(strike, kind) for strike in STRIKES for kind in KINDS for _ in range(ROUNDS)]
    with LocalCloud(latency=LATENCY, source_omis={SOURCE_OMI: guest_image}) as cloud:
        state = Path(cloud.environment()[STATE_VARIABLE])
        machine = leak_check.again()
        for number, (strike, kind) in enumerate(chaos.draw(moments, sample=6)):
            builds = [f"{number}-{i}" for i in range(2 if kind == "two" else 1)]
            (tmp_path / "chaos.pkr.hcl").write_text(
                TEMPLATE.format(options=KINDS[kind], names=json.dumps(builds))
            )
            before = {image.image_id for image in cloud.images()}
            delay = chaos.random.uniform(0.0, LONGEST)
            build = packer.start(
                "build", "-color=false", "chaos.pkr.hcl", cwd=tmp_path, cloud=cloud
            )
            build.wait_for("Looking at this VM")
            time.sleep(delay)
            STRIKES[strike](build)
            outcome = build.wait()
            quiet(machine)
            where = f"{strike} after {delay:.2f} s of {kind} {builds}:\n{outcome.output}"
            end = "undone"
            if strike in TOTAL and state.is_dir() and any(state.iterdir()):
                end = "undone by reclaim"
            if strike in TOTAL:
                where += reclaim(packer, cloud)
            assert cloud.leftovers() == [], where
            assert cloud.defects == [], where
            assert not state.is_dir() or [*state.iterdir()] == [], where
            machine.check()
            for image in cloud.images():
                if image.image_id in before:
                    continue
                told = image.image_id in outcome.output.partition("successful builds")[2]
                # Packer does not show what a build has made that ended just before it was cancelled.
                was_over = "Where the time went" in outcome.output
                assert told or was_over or strike in UNTOLD, where
                assert image.state == "available", where
                root = cloud.root_image(image.image_id)
                check_filesystem(root)
                assert read_file(root, "/made") == "made\n", where
                end = "made"
            snapshots = [each for each in cloud.snapshots() if each.state != "deleting"]
            assert len(snapshots) == len(cloud.images()), where
            chaos.ends[f"{kind}, {strike}: {end}"] += 1
