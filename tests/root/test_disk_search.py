"""Which disk is the one of a link: by what tells it for certain, and else by what alone appeared."""

import threading
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from fake_kernel import FakeKernel

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.host import disk_search
from packer_plugin_osc_chroot.host.disk import disks
from packer_plugin_osc_chroot.host.disk_search import UnprovedDisk, find_disk

pytestmark = pytest.mark.root

VOLUME = "vol-1a2b3c4d"


class Search:
    """A search for the disk of `VOLUME`, of 1 GiB, linked as /dev/xvdf."""

    def __init__(self, kernel: FakeKernel) -> None:
        self.kernel = kernel
        self.before: Mapping[Path, str] = {}

    def note(self) -> None:
        self.before = disks(dev=self.kernel.dev, sysfs=self.kernel.sysfs)

    def find(
        self, *, nvme_device_path: str = "", alone: bool = False, seconds: float = 60.0
    ) -> str:
        found = find_disk(
            VOLUME,
            api_name="/dev/xvdf",
            nvme_device_path=nvme_device_path,
            size=1,
            token=CancelToken(),
            before=self.before,
            is_alone=lambda: alone,
            seconds=seconds,
            dev=self.kernel.dev,
            sysfs=self.kernel.sysfs,
        )
        return found.path.name

    def refuse(self, text: str, *, alone: bool = True) -> BuildError:
        with pytest.raises(BuildError, match=text) as caught:
            self.find(alone=alone)
        return caught.value


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    return FakeKernel(tmp_path)


@pytest.fixture
def search(kernel: FakeKernel, monkeypatch: pytest.MonkeyPatch) -> Search:
    monkeypatch.setattr(disk_search, "_APPEAR_SECONDS", 0.4)
    monkeypatch.setattr(disk_search, "_NAMED_SECONDS", 0.15)
    return Search(kernel)


NONE = "no disk of 1 GiB appeared"


def test_the_name_asked_for(kernel: FakeKernel, search: Search) -> None:
    search.note()
    kernel.plug("xvdf")
    assert search.find() == "xvdf"


@pytest.mark.parametrize(
    ("name", "how"),
    [
        # OUTSCALE's own: the letter of the link is the API's, that of the disk another.
        ("sdb", {"by_id": "scsi-0QEMU_QEMU_HARDDISK_sdf"}),
        ("vdb", {"by_id": "virtio-sdf"}),
        ("vdb", {"by_id": f"virtio-{VOLUME}"}),
        ("vdb", {"virtio": VOLUME}),
        ("vdb", {"virtio": "xvdf"}),
        ("nvme1n1", {"by_id": "nvme-QEMU_NVMe_Ctrl_vol1a2b3c4d"}),
        ("nvme1n1", {"by_id": "nvme-QEMU_NVMe_Ctrl_vol1a2b3c4d_1"}),
        ("nvme1n1", {"nvme": "vol1a2b3c4d"}),
        ("nvme1n1", {"nvme": "sdf"}),
    ],
)
def test_a_serial_that_names_it_among_others(
    kernel: FakeKernel, search: Search, name: str, how: Mapping[str, str]
) -> None:
    kernel.plug("vda", size=10)
    search.note()
    # Another build's, of the same size, at the same time.
    kernel.plug("vdy", virtio="vol-99999999")
    kernel.plug("sdf", by_id="scsi-0QEMU_QEMU_HARDDISK_sdg")
    kernel.plug("nvme9n1", nvme="vol99999999")
    kernel.plug(name, **how)  # type: ignore[arg-type]
    assert search.find() == name


def test_disks_are_found_when_they_appear_late(kernel: FakeKernel, search: Search) -> None:
    kernel.plug("sda", by_id="scsi-0QEMU_QEMU_HARDDISK_sda", size=10)
    search.note()

    def plug() -> None:
        node = kernel.plug("sdb")
        time.sleep(0.1)
        kernel.link("scsi-0QEMU_QEMU_HARDDISK_sdf", node)

    threading.Timer(0.15, plug).start()
    assert search.find() == "sdb"


@pytest.mark.parametrize("name", ["xvdf", "sdf"])
def test_a_disk_that_was_there_before_is_another(
    kernel: FakeKernel, search: Search, name: str
) -> None:
    node = kernel.plug(name)
    search.note()
    search.refuse(NONE)
    # Nor is it taken for the user's word: in from_scratch it would lose all it has.
    with pytest.raises(BuildError, match=f"nvme_device_path {node} is not .*{VOLUME}: it was here"):
        search.find(nvme_device_path=str(node))


def test_nvme_device_path_of_a_disk_that_makes_room(kernel: FakeKernel, search: Search) -> None:
    """As where the build before this one is just being unlinked."""
    node = kernel.plug("nvme1n1")
    search.note()

    def change() -> None:
        kernel.unplug(node)
        time.sleep(0.03)
        kernel.plug("nvme1n1")

    threading.Timer(0.05, change).start()
    assert search.find(nvme_device_path=str(node)) == "nvme1n1"


@pytest.mark.parametrize(
    ("own", "other", "words"),
    [
        ({}, {"virtio": "vol-99999999"}, "it is called vol-99999999"),
        ({}, {"by_id": "scsi-0QEMU_QEMU_HARDDISK_sdg"}, "it is called sdg"),
        ({"nvme": "vol1a2b3c4d"}, {}, "/own is"),
    ],
)
def test_nvme_device_path_of_another_builds_disk_is_refused(
    kernel: FakeKernel,
    search: Search,
    own: Mapping[str, str],
    other: Mapping[str, str],
    words: str,
) -> None:
    search.note()
    kernel.plug("own", **own)  # type: ignore[arg-type]
    node = kernel.plug("nvme1n1", **other)  # type: ignore[arg-type]
    with pytest.raises(BuildError, match=f"{node} is not the disk of volume {VOLUME}: .*{words}"):
        search.find(nvme_device_path=str(node), alone=True)


def test_nvme_device_path_that_is_a_partition_is_refused(
    kernel: FakeKernel, search: Search
) -> None:
    search.note()
    node = kernel.add_partition(kernel.plug("nvme1n1"), "nvme1n1p1")
    with pytest.raises(BuildError, match=f"{node} is not .*: it is a partition"):
        search.find(nvme_device_path=str(node))


def test_device_path_that_the_kernel_gives_to_another_disk(
    kernel: FakeKernel, search: Search
) -> None:
    """The API's /dev/xvdf is free, the kernel's is a disk of the user."""
    kernel.plug("xvdf")
    search.note()
    kernel.plug("xvdg", by_id="scsi-0QEMU_QEMU_HARDDISK_sdf")
    assert search.find() == "xvdg"


def test_link_timeout_bounds_the_search(
    kernel: FakeKernel, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_search, "_APPEAR_SECONDS", 60.0)
    search.note()
    for seconds, shown in ((0.6, "within 1 s"), (-1.0, "within 0 s")):
        begun = time.monotonic()
        with pytest.raises(BuildError, match=f"{NONE}.*{shown}") as caught:
            search.find(seconds=seconds)
        assert time.monotonic() - begun < 1.2
        assert "a higher link_timeout" in caught.value.hint


@pytest.mark.parametrize("name", ["xvdf", "sdf"])
def test_a_new_disk_with_the_name_of_one_that_went(
    kernel: FakeKernel, search: Search, name: str
) -> None:
    node = kernel.plug(name)
    search.note()
    kernel.unplug(node)
    kernel.plug(name)
    assert search.find() == name


def test_letters_of_the_kernel_count_only_without_udev(kernel: FakeKernel, search: Search) -> None:
    search.note()
    node = kernel.plug("sdf")
    assert search.find() == "sdf"
    kernel.link("scsi-0QEMU_QEMU_HARDDISK_sdg", node)
    search.refuse(NONE)


def test_the_first_disks_that_udev_names_at_all(kernel: FakeKernel, search: Search) -> None:
    """Two builds link at once where no disk had a serial before: the kernel's letters are swapped."""
    (kernel.dev / "disk/by-uuid").mkdir(parents=True)
    search.note()
    another, own = kernel.plug("sdf"), kernel.plug("sdg")
    search.refuse("nothing tells whether", alone=False)
    kernel.link("scsi-0QEMU_QEMU_HARDDISK_sdg", another)
    kernel.link("scsi-0QEMU_QEMU_HARDDISK_sdf", own)
    assert search.find() == "sdg"


def test_a_link_to_an_old_disk_says_nothing(kernel: FakeKernel, search: Search) -> None:
    kernel.plug("sdc", by_id="scsi-0QEMU_QEMU_HARDDISK_sdf")
    search.note()
    search.refuse(NONE)
    kernel.plug("sdd", by_id="scsi-0QEMU_QEMU_HARDDISK_xvdf")
    assert search.find() == "sdd"


def test_a_disk_of_another_size_is_another(kernel: FakeKernel, search: Search) -> None:
    search.note()
    kernel.plug("xvdf", size=2)
    kernel.plug("vdb", size=2, virtio=VOLUME)
    search.refuse(NONE)


def test_the_one_disk_that_appeared_is_it_when_nobody_else_links(
    kernel: FakeKernel, search: Search
) -> None:
    disk = kernel.plug("vda", size=1)
    search.note()
    kernel.plug("vdb")
    kernel.plug("loop7")
    kernel.plug("dm-0")
    kernel.add_partition(disk, "vda9")
    assert search.find(alone=True) == "vdb"


def test_two_builds_linking_at_once_never_take_each_others_disk(
    kernel: FakeKernel, search: Search
) -> None:
    search.note()
    kernel.plug("vdb")
    # It may be another build's, whose own has yet to come or not.
    with pytest.raises(UnprovedDisk, match="nothing tells whether it is .*/vdb"):
        search.find(alone=False)
    kernel.plug("vdc")
    with pytest.raises(UnprovedDisk, match="vdb or .*vdc"):
        search.find(alone=True)


def test_a_disk_that_does_not_show_up_is_an_error_listing_what_did(
    kernel: FakeKernel, search: Search
) -> None:
    kernel.plug("sda", size=10, by_id="scsi-0QEMU_QEMU_HARDDISK_sda")
    search.note()
    kernel.plug("vdb", size=3, virtio="abc")
    error = search.refuse(f"volume {VOLUME} is linked as /dev/xvdf, and {NONE} as .*/xvdf.*sdf")
    assert f"{kernel.dev}/sda (10.0 GiB)" in error.details[0]
    assert f"{kernel.dev}/vdb (3.0 GiB, serial abc, new)" in error.details[0]
    assert error.details[1].endswith(f"QEMU_HARDDISK_sda -> {kernel.dev}/sda")
    assert 'device_path = "/dev/xvdf"' in error.hint and "nvme_device_path" in error.hint


@pytest.mark.parametrize("written", ["nvme3n1", "nvme3n1p"])
def test_nvme_device_path_overrides(kernel: FakeKernel, search: Search, written: str) -> None:
    search.note()
    kernel.plug("xvdf")
    kernel.plug("nvme3n1")
    assert search.find(nvme_device_path=f"{kernel.dev}/{written}") == "nvme3n1"


def test_nvme_device_path_may_be_a_link_made_by_a_rule_of_the_user(
    kernel: FakeKernel, search: Search
) -> None:
    search.note()
    kernel.plug("vdq")
    (kernel.dev / "mine").symlink_to("vdq")
    assert search.find(nvme_device_path=str(kernel.dev / "mine")) == "vdq"
