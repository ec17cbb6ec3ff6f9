"""The Attacher of a VM, on a QEMU in which nothing runs."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from machine import Machine
from qmp import Qmp, QmpError
from qmp_disks import QmpAttacher

from packer_plugin_osc_chroot.localcloud.attacher import NameTaken

pytestmark = pytest.mark.vm

MIB = 1024**2


def blank(path: Path) -> Path:
    with open(path, "wb") as file:
        file.truncate(MIB)
    return path


@pytest.fixture
def qmp(tmp_path: Path) -> Iterator[Qmp]:
    with Machine(blank(tmp_path / "nothing.raw"), tmp_path / "vm", "tcg") as machine:
        qmp = Qmp(machine.qmp)
        yield qmp
        qmp.close()


def sizes(qmp: Qmp) -> dict[str, int]:
    nodes = qmp.execute("query-named-block-nodes")
    return {node["node-name"]: node["image"]["virtual-size"] for node in nodes}


def test_a_disk_comes_and_grows_and_goes(qmp: Qmp, tmp_path: Path) -> None:
    attacher = QmpAttacher(qmp)
    volume = blank(tmp_path / "vol-12345678.raw")
    attacher.reserve("xvdf")
    with pytest.raises(NameTaken):
        attacher.reserve("xvdf")
    disk = attacher.attach(volume, slot="xvdf")
    assert disk.node == Path("/dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_sdf")
    assert disk.flush() == 0
    with open(volume, "r+b") as file:
        file.truncate(2 * MIB)
    disk.update_size()
    assert sizes(qmp)["sdf"] == 2 * MIB
    assert disk.detach()
    assert disk.flush() is None
    assert "sdf" not in sizes(qmp)
    attacher.reserve("xvdf")


def test_what_qemu_refuses_is_said(qmp: Qmp, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing.raw"):
        QmpAttacher(qmp).attach(tmp_path / "missing.raw", slot="xvdf")
    with pytest.raises(QmpError, match="Device 'nothing' not found"):
        qmp.delete_device("nothing", timeout=1)
