"""What users of chroot builders report (issues of hashicorp/packer), each as a whole build.

The symptom is in the test's name; here it does not happen, or is an error that says what to do.
"""

import dataclasses
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from in_process import OPTIONS, SOURCE, Provisioner, assert_nothing_left, live_snapshots
from in_process import run as run_build

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.context import Communicator
from packer_plugin_osc_chroot.errors import BuildError, Cancelled
from packer_plugin_osc_chroot.host import disk_search
from packer_plugin_osc_chroot.host.procfs import command_line, pids
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.images import tiny_image
from packer_plugin_osc_chroot.localcloud.latency import Latency
from packer_plugin_osc_chroot.localcloud.trouble import Fate, Trouble
from packer_plugin_osc_chroot.ui import RecordingUi

# Disks by id have the machine's lowest letters: one test at a time.
pytestmark = [pytest.mark.root, pytest.mark.xdist_group("by-id")]

Look = Callable[[Communicator, Mapping[str, str]], None]


def build(cloud: LocalCloud, *, look: Look | None = None, **options: Any) -> RecordingUi:
    ui = RecordingUi()
    config = dataclasses.replace(OPTIONS, **options)
    run_build(
        cloud,
        config=config,
        ui=ui,
        provisioner=Provisioner(look=look or (lambda communicator, data: None)),
    )
    assert_nothing_left(cloud)
    return ui


def in_chroot(communicator: Communicator, command: str) -> str:
    said = bytearray()
    status = communicator.chroot.start(
        command, on_stdout=said.extend, on_stderr=said.extend, token=CancelToken()
    )
    assert status == 0, said
    return said.decode()


def root_of(cloud: LocalCloud, partition: int = 1) -> Path:
    """The newest OMI's disk, checked."""
    image = cloud.root_image(cloud.images()[-1].image_id)
    check_filesystem(image, partition)
    return image


def check_filesystem(image: Path, partition: int) -> None:
    """`fsck -n` of a partition finds nothing to do."""
    said = subprocess.run(
        ["sfdisk", "--dump", str(image)], check=True, capture_output=True, text=True
    ).stdout
    starts = [int(number) for number in re.findall(r"start= *(\d+)", said)]
    device = subprocess.run(
        ["losetup", "--find", "--show", "--read-only"]
        + ["--offset", str(starts[partition - 1] * 512), str(image)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    try:
        checked = subprocess.run(
            ["e2fsck", "-fn", device], check=False, capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


@pytest.fixture
def typical(guest_image: Path) -> Iterator[LocalCloud]:
    with LocalCloud(
        source_omis={SOURCE: guest_image}, latency=Latency(volume=1.0, snapshot=1.0)
    ) as running:
        yield running


def test_umount_target_is_busy_since_a_process_was_left_behind(cloud: LocalCloud) -> None:
    """#2840"""

    def leave(communicator: Communicator, data: Mapping[str, str]) -> None:
        in_chroot(communicator, "cd /var/lib && (sleep 9731 </dev/null >/var/lib/log 2>&1 &)")

    ui = build(cloud, look=leave)
    assert re.search(r"\d+ .*sleep 9731", ui.text)
    assert not any("sleep 9731" in command_line(pid) for pid in pids())
    root_of(cloud)


def test_filesystem_of_the_image_has_errors_after_much_was_written(cloud: LocalCloud) -> None:
    def write(communicator: Communicator, data: Mapping[str, str]) -> None:
        in_chroot(
            communicator,
            "for i in $(seq 200); do mkdir -p /var/lib/$((i % 7)); "
            "head -c $((i * 997)) /dev/zero >/var/lib/$((i % 7))/$i; done; rm -r /var/lib/3; "
            # An open file that is deleted is freed at the last close only.
            "(exec 3>/var/lib/open; rm /var/lib/open; sleep 9732 </dev/null >/dev/null 2>&1 &)",
        )

    build(cloud, look=write)
    root_of(cloud)


def test_attachment_point_is_already_in_use() -> None:
    """#3060: somebody else takes the name between our look and our link."""
    with LocalCloud(trouble=Trouble(taken_names=("/dev/xvdb", "/dev/xvdc"))) as cloud:
        build(cloud)


def test_device_letters_run_out_after_leaks(tmp_path: Path) -> None:
    """#3379: b to z are taken, here by names that the API refuses."""
    letters = tuple(f"/dev/xvd{letter}" for letter in "bcdefghijklmnopqrstuvwxyz")
    with LocalCloud(trouble=Trouble(taken_names=letters)) as cloud:
        build(cloud)
        used = [call.parameters.get("DeviceName", "") for call in cloud.record]
        assert "/dev/xvdba" in used


def test_volume_is_not_attached_yet_when_it_is_mounted() -> None:
    """#1854, #2046: the link's state is behind, and so is the disk."""
    with LocalCloud(
        latency=Latency(link=0.7, disk=1.2, unlink=0.7), trouble=Trouble(stale_reads=0.6)
    ) as cloud:
        build(cloud)


def test_volume_that_says_attached_has_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_search, "_APPEAR_SECONDS", 1.0)
    fates = (Fate(action="LinkVolume", end="no-disk"),)
    with LocalCloud(trouble=Trouble(fates=fates)) as cloud:
        with pytest.raises(BuildError, match="no disk of 1 GiB appeared") as caught:
            run_build(cloud)
        assert caught.value.details[0].startswith("disks here: ")
        assert_nothing_left(cloud)


@pytest.mark.parametrize("link", ["../run/systemd/resolve/stub-resolv.conf", "/nowhere/at/all"])
def test_dangling_resolv_conf_symlink_breaks_copy_files(tmp_path: Path, link: str) -> None:
    """#500"""
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/resolv.conf").symlink_to(link)
    image = tiny_image(tmp_path / "image.raw", tree=tree)

    def look(communicator: Communicator, data: Mapping[str, str]) -> None:
        inside = Path(data["MountPath"], "etc/resolv.conf")
        assert inside.read_bytes() == Path("/etc/resolv.conf").read_bytes()

    with LocalCloud(source_omis={SOURCE: image}) as cloud:
        build(cloud, look=look)
        assert link in debugfs(root_of(cloud), "stat /etc/resolv.conf")


def test_clean_up_of_copy_files_deletes_the_images_own_file(tmp_path: Path) -> None:
    """#1490, #4698"""
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/resolv.conf").write_text("# the image's own\n")
    image = tiny_image(tmp_path / "image.raw", tree=tree)
    with LocalCloud(source_omis={SOURCE: image}) as cloud:
        build(cloud)
        assert debugfs(root_of(cloud), "cat /etc/resolv.conf") == "# the image's own\n"


def debugfs(image: Path, request: str) -> str:
    return subprocess.run(
        ["debugfs", "-R", request, f"{image}?offset={1 << 20}"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout


def test_disk_appears_under_another_name_than_it_was_attached_as() -> None:
    """#5848, #6710, #10807: as OUTSCALE's VMs show it."""
    with LocalCloud(disks="by-id", own_disk=True) as cloud:
        ui = build(cloud, device_path="/dev/xvdq")
        assert re.search(r"Disk: /dev/sd[a-p] \(linked as /dev/xvdq\)", ui.text)


def test_partition_of_an_nvme_disk_is_not_the_disk_and_a_digit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The kernel puts a p between them."""
    nvme = Path("/dev/nvme71n1")
    monkeypatch.setattr(disk_search, "certain_paths", lambda *args, **kwargs: [])
    devices: list[str] = []

    def look(communicator: Communicator, data: Mapping[str, str]) -> None:
        devices.extend((data["Device"], data["PartitionDevice"]))

    try:
        with LocalCloud() as cloud:
            making = threading.Thread(target=make_nodes_like_nvme, args=[nvme])
            making.start()
            build(
                cloud,
                look=look,
                nvme_device_path=str(nvme),
                pre_mount_commands=("test {{.PartitionDevice}} = {{.Device}}p1",),
            )
            making.join()
        assert devices == [str(nvme), f"{nvme}p1"]
    finally:
        for each in (nvme, Path(f"{nvme}p1")):
            each.unlink(missing_ok=True)


def make_nodes_like_nvme(nvme: Path) -> None:
    """Nodes with the numbers of the first disk that appears, as udev names an NVMe disk's."""
    before = set(Path("/dev").glob("xvd*"))
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        for node in sorted(set(Path("/dev").glob("xvd*")) - before):
            with suppress(OSError):
                target = Path(f"{nvme}p1") if node.name[-1].isdigit() else nvme
                if not target.exists():
                    os.mknod(target, 0o600 | 0o060000, node.stat().st_rdev)
        if Path(f"{nvme}p1").exists():
            return
        time.sleep(0.01)


def test_first_partition_is_mounted_though_the_root_is_another(tmp_path: Path) -> None:
    """#3011"""
    image = tmp_path / "image.raw"
    subprocess.run(["truncate", "-s", "160M", image], check=True)
    table = "label: gpt\nsize=40MiB\nsize=100MiB\n"
    subprocess.run(["sfdisk", "-q", image], input=table, text=True, check=True)
    boot, root = tmp_path / "boot", tmp_path / "root"
    (boot / "grub").mkdir(parents=True)
    (boot / "vmlinuz-6.1").touch()
    (root / "etc").mkdir(parents=True)
    (root / "etc/resolv.conf").touch()
    for tree, offset, size in ((boot, 1, "40M"), (root, 41, "100M")):
        options = f"offset={offset << 20}"
        subprocess.run(
            ["mkfs.ext4", "-q", "-F", "-d", tree, "-E", options, image, size], check=True
        )
    with LocalCloud(source_omis={SOURCE: image}) as cloud:
        with pytest.raises(BuildError, match="no root filesystem") as caught:
            run_build(cloud)
        assert 'set mount_partition = "2"' in caught.value.hint
        assert_nothing_left(cloud)
        build(cloud, mount_partition="2")
        root_of(cloud, 2)


@pytest.mark.parametrize("after", [0.3, 0.9, 1.6])
def test_interrupted_build_leaks_its_volume(typical: LocalCloud, after: float) -> None:
    token = CancelToken()
    threading.Timer(after, token.cancel).start()
    with pytest.raises(Cancelled):
        run_build(typical, token=token)
    assert_nothing_left(typical)
    assert live_snapshots(typical) == []


def test_timeout_leaves_the_image_behind() -> None:
    """#10248"""
    fates = (Fate(action="CreateImage", end="never"),)
    with LocalCloud(trouble=Trouble(fates=fates)) as cloud:
        with pytest.raises(BuildError):
            run_build(cloud, config=dataclasses.replace(OPTIONS, image_timeout=1.0))
        assert_nothing_left(cloud)
        assert cloud.images() == [] and live_snapshots(cloud) == []
