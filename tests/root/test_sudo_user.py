"""Everything of the host side as a normal user, whose one privilege is `sudo {{.Command}}`."""

import shutil
import subprocess
from pathlib import Path

import pytest
from guest_tree import loop_device, no_mount_left, run
from sudo_user import SudoUser

import packer_plugin_osc_chroot

pytestmark = pytest.mark.root

# Readable by every user, which an interpreter below /root is not.
PYTHON = "/usr/bin/python3"

SCRIPT = r"""
import os, sys, threading, time
from contextlib import ExitStack
from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.host.chroot import Chroot
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.copy_files import copied_files
from packer_plugin_osc_chroot.errors import Cancelled
from packer_plugin_osc_chroot.host.mounts import ExtraMount, extra_mounts, mounted_root
from packer_plugin_osc_chroot.host.transfer import open_rootfs
from packer_plugin_osc_chroot.ui import RecordingUi

assert os.geteuid() != 0
device, mount_path, own = sys.argv[1:]
host = Host(wrap=lambda command: f"sudo -n {command}")
ui, token = RecordingUi(), CancelToken()
mounts = [ExtraMount("proc", "proc", "/proc"), ExtraMount("bind", "/dev", "/dev")]
with ExitStack() as stack:
    root = stack.enter_context(mounted_root(host, device, mount_path, ui=ui, token=token))
    files = stack.enter_context(open_rootfs(host, root))
    stack.enter_context(extra_mounts(host, root, files, mounts, ui=ui, token=token))
    copies = copied_files(files, ["/etc/hostname"], host=host, root=root, ui=ui, token=token)
    stack.enter_context(copies)
    out = bytearray()
    chroot = Chroot(host, root)

    def start(command, token=token):
        return chroot.start(command, on_stdout=out.extend, on_stderr=out.extend, token=token)

    assert start("id -u; stat -c %u /etc/hostname; printf '%s' '$HOME \"`x`\"'") == 0, out
    assert out == b"0\n0\n$HOME \"`x`\"", out
    files.upload("/root/only-root", [b"up"], mode=0o600, token=token)
    assert b"".join(files.download("/root/only-root", token=token)) == b"up"
    files.upload_dir(own, "/root/tree", contents_only=True, token=token)
    files.download_dir("/root/tree", own + "-back", contents_only=True, token=token)
    assert open(own + "-back/file").read() == "mine"
    assert os.stat(own + "-back/file").st_uid == os.geteuid()
    cancel = CancelToken()
    threading.Timer(0.4, cancel.cancel).start()
    begun = time.monotonic()
    try:
        start("trap '' TERM; (setsid sleep 95 &) ; while :; do sleep 1; done", cancel)
        raise AssertionError("not cancelled")
    except Cancelled:
        print("cancelled after", round(time.monotonic() - begun - 0.4, 2))
        assert time.monotonic() - begun < 1.4
    assert start("sleep 96 >/dev/null 2>&1 & exit 7") == 7
assert "sleep 96" in ui.text, ui.text
print("done")
"""


def test_host_side_with_sudo(sudo_user: SudoUser) -> None:
    tmp_path = sudo_user.home
    package = Path(packer_plugin_osc_chroot.__file__).parent
    shutil.copytree(package, tmp_path / "lib" / package.name)
    own = tmp_path / "own"
    (own / "tree").mkdir(parents=True)
    (own / "tree/file").write_text("mine")
    run("chown", "-R", sudo_user.name, str(own))
    with no_mount_left(tmp_path), loop_device(tmp_path) as device:
        done = subprocess.run(
            [
                *sudo_user.argv,
                *("env", f"PYTHONPATH={tmp_path}/lib", PYTHON, "-c", SCRIPT),
                *(device, str(tmp_path / "mnt/root"), str(own / "tree")),
            ],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.endswith("done\n"), done.stdout + done.stderr
        subprocess.run(["e2fsck", "-fn", device], check=True, capture_output=True)
