"""A VM as OUTSCALE runs them: packer in it, and a Region around it that plugs its volumes into it."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from machine import GATEWAY, Accelerator, Machine
from packer_run import Outcome
from qmp import Qmp
from qmp_disks import QmpAttacher

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud

SOURCE_OMI = "ami-00000012"
_TOOLS = "/media/tools"
_MOUNTS = "findmnt --noheadings --list"


@dataclass(frozen=True)
class Build:
    """A packer build that succeeded."""

    output: str
    seconds: float

    @property
    def disks(self) -> dict[str, str]:
        """The API's names of the disks, and the kernel's, as users are told."""
        found = re.findall(r"Disk: (\S+) \(linked as (\S+)\)", self.output)
        return {linked: disk for disk, linked in found}

    @property
    def partitions(self) -> list[str]:
        """What was mounted."""
        return sorted(re.findall(r"Mounting (\S+) at", self.output))

    def __str__(self) -> str:
        disks = ", ".join(f"{disk} (the API's {name})" for name, disk in self.disks.items())
        return f"{self.seconds:.0f} s, on {disks}; mounted {', '.join(self.partitions)}"


@dataclass(frozen=True)
class RegionVm:
    """The VM, and the Region that it is in."""

    machine: Machine
    cloud: LocalCloud
    attacher: QmpAttacher

    def build(self, *arguments: str, timeout: float) -> Build:
        """Run `packer build` in the VM, to a good end."""
        outcome = self.packer("build", "-color=false", *arguments, timeout=timeout)
        return Build(outcome.output, outcome.seconds)

    def packer(self, *arguments: str, timeout: float) -> Outcome:
        """Run packer in the VM, in the directory of the templates, to a good end."""
        command = " ".join([f"cd {_TOOLS} && ./packer", *(f"'{word}'" for word in arguments)])
        found = self.cloud.environment()
        environment = {
            name: found[name] for name in ("OSC_ACCESS_KEY", "OSC_SECRET_KEY", "OSC_REGION")
        }
        endpoint = urlsplit(found["OSC_ENDPOINT_API"])
        environment["OSC_ENDPOINT_API"] = f"http://{GATEWAY}:{endpoint.port}{endpoint.path}"
        environment["CHECKPOINT_DISABLE"] = "1"
        return self.machine.run(command, environment=environment, timeout=timeout)

    def omi(self, name: str) -> str:
        """The id of the OMI of that name."""
        [found] = [image.image_id for image in self.cloud.images() if image.name == name]
        return found


def make_tools_disk(disk: Path, contents: Sequence[Path]) -> None:
    """Make the disk image `disk` with these files in it."""
    tree = disk.with_suffix(".tree")
    tree.mkdir()
    for file in contents:
        shutil.copy(file, tree)
    size = sum(file.stat().st_size for file in contents)
    subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-L", "tools", "-d", tree, disk, f"{(size >> 20) + 64}m"],
        check=True,
        capture_output=True,
    )
    shutil.rmtree(tree)


@contextmanager
def running_vm(
    image: Path,
    directory: Path,
    accelerator: Accelerator,
    *,
    tools: Path,
    say: Callable[[str], None],
) -> Iterator[RegionVm]:
    """The VM is up, with the plugin from the disk `tools` installed.

    Afterwards nothing must be left in it, and in its Region, which has `image` as SOURCE_OMI.
    """
    qmp = Qmp(directory / "qmp")
    attacher = QmpAttacher(qmp)
    with LocalCloud(source_omis={SOURCE_OMI: image}, attacher=attacher) as cloud:
        metadata = urlsplit(cloud.environment()["OSC_CHROOT_METADATA_URL"]).port
        with Machine(
            image,
            directory,
            accelerator,
            disks=[tools],
            metadata=metadata,
            processors=os.cpu_count() or 1,
        ) as machine:
            login, seconds = machine.wait_for_login(timeout=300)
            say(f"the VM, which is the OMI from scratch, boots in {seconds:.1f} s: {login}")
            machine.run(f"mkdir {_TOOLS} && mount LABEL=tools {_TOOLS}", timeout=120)
            before = machine.run(_MOUNTS, timeout=60).output
            vm = RegionVm(machine, cloud, attacher)
            plugin = f"{_TOOLS}/packer-plugin-osc-chroot"
            vm.packer(
                *("plugins", "install", "--path", plugin, "github.com/outscale/osc-chroot"),
                timeout=120,
            )
            yield vm
            assert machine.run(_MOUNTS, timeout=60).output == before
        qmp.close()
    assert cloud.leftovers() == []
    assert cloud.defects == []
