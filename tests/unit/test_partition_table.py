"""The partitions of a disk's table, as they are read before and after a command of the user's."""

import subprocess
from pathlib import Path

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.disk import Disk
from packer_plugin_osc_chroot.host.partitions import partition_table


def test_each_partition_of_a_table_and_nothing_without_one(tmp_path: Path) -> None:
    file = tmp_path / "disk.raw"
    file.write_bytes(b"")
    with file.open("r+b") as disk:
        disk.truncate(64 << 20)

    def read() -> tuple[str, ...]:
        return partition_table(Disk("vol", "/dev/xvdf", file), host=Host(None), token=CancelToken())

    assert read() == ()
    subprocess.run(["sfdisk", "--quiet", file], input=b"2048,8192\n,\n", check=True)
    first, second = read()
    assert first.split() == ["1", "2048", "8192"]
    assert second.split()[0] == "2"
