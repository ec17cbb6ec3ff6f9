"""The entries of the machine's localclouds: several that start and end at once. Needs no root."""

import subprocess
import sys
from pathlib import Path

from packer_plugin_osc_chroot.localcloud import remains

PROCESSES = 6
STARTS = 40

CHURN = f"""
from packer_plugin_osc_chroot.localcloud.remains import register

for _ in range({STARTS}):
    entry = register()
    entry.reserve("xvdyz" + entry.name)
    entry.remove()
"""


def test_starting_and_ending_at_once() -> None:
    running = [
        subprocess.Popen([sys.executable, "-c", CHURN], stderr=subprocess.PIPE, text=True)
        for _ in range(PROCESSES)
    ]
    ends = [(process.communicate(timeout=60)[1], process.returncode) for process in running]
    assert ends == [("", 0)] * PROCESSES


def test_the_next_start_removes_what_a_dead_one_left() -> None:
    left = subprocess.run(
        [
            sys.executable,
            "-c",
            "from packer_plugin_osc_chroot.localcloud.remains import register\n"
            "entry = register()\n"
            "entry.reserve('xvdyz' + entry.name)\n"
            "print(entry.name, entry.directory)",
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    name, directory = left.split()
    runtime = remains.runtime_directory()
    assert Path(directory).is_dir()
    remains.register().remove()
    assert not Path(directory).exists()
    assert not (runtime / "clouds" / name).exists()
    assert not (runtime / "names" / f"xvdyz{name}").is_symlink()


def test_an_entry_that_goes_while_it_is_looked_at(tmp_path: Path) -> None:
    (tmp_path / "names").mkdir()
    (tmp_path / "clouds").mkdir()
    # Looks like one whose owner removed it after the directory was read.
    (tmp_path / "clouds" / "gone").symlink_to("nowhere")
    remains.remove_dead(tmp_path)
