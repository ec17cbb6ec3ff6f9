"""Uploads and downloads: what arrives, and what is said when it fails."""

import gc
import os
import random
import shutil
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from guest_tree import loop_device, no_mount_left, run
from transfer_place import HOSTS, Place, make_local

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, Cancelled
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.copy_files import copied_files
from packer_plugin_osc_chroot.host.transfer import open_rootfs
from packer_plugin_osc_chroot.ui import RecordingUi

pytestmark = pytest.mark.root


def test_file_up_and_down(place: Place) -> None:
    data = random.Random(1).randbytes(3_000_000)
    place.upload("/tmp/new", data)
    place.upload("/tmp/run", b"", mode=0o100755)
    assert (place.root / "tmp/new").read_bytes() == data
    assert stat.S_IMODE((place.root / "tmp/new").stat().st_mode) == 0o644
    assert stat.S_IMODE((place.root / "tmp/run").stat().st_mode) == 0o755
    assert place.download("/tmp/new") == data
    assert place.download("tmp/run") == b""


@pytest.mark.parametrize("name", ["é" * 127, "n" * 255, os.fsdecode(b"\xff" * 254)])
def test_existing_file_of_the_longest_name(place: Place, name: str) -> None:
    """255 bytes, whatever characters they make."""
    for data in (b"old", b"new"):
        place.upload(f"/tmp/{name}", data)
    assert place.download(f"/tmp/{name}") == b"new"
    assert os.listdir(place.root / "tmp") == [name]
    source = place.top / name
    source.write_text("host")
    own = place.root / str(source).lstrip("/")
    own.parent.mkdir(parents=True)
    own.write_text("own")
    with copied_files(
        place.files,
        [str(source)],
        host=Host(),
        root=Path("/no/such/root"),
        ui=RecordingUi(),
        token=CancelToken(),
    ):
        assert own.read_text() == "host"
    assert own.read_text() == "own"


def test_existing_file_keeps_its_mode_and_owner(place: Place) -> None:
    target = place.root / "etc/config"
    target.write_text("something longer than what comes")
    target.chmod(0o600)
    os.chown(target, 12, 34)
    place.upload("/etc/config", b"new", mode=0o644)
    found = target.stat()
    assert target.read_bytes() == b"new"
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o600, 12, 34)


@pytest.mark.parametrize("kind", ["plain", "hard link", "mounted over"])
def test_existing_file_is_replaced_whole_or_not_at_all(place: Place, kind: str) -> None:
    target = place.root / "etc/old"
    target.write_text("as it was")
    os.setxattr(target, "user.label", b"kept")
    if kind == "hard link":
        os.link(target, place.root / "etc/other")
    elif kind == "mounted over":
        (place.top / "bound").write_text("as it was")
        run("mount", "--bind", str(place.top / "bound"), str(target))

    def breaks() -> Iterator[bytes]:
        yield b"half"
        raise BuildError("the source is gone")

    try:
        before = sorted(os.listdir(place.root / "etc"))
        with pytest.raises(BuildError, match="the source is gone"):
            place.files.upload("/etc/old", breaks(), mode=0, token=CancelToken())
        assert target.read_text() == "as it was"
        place.upload("/etc/old", b"new" * 100_000)
        assert target.read_bytes() == b"new" * 100_000
        assert sorted(os.listdir(place.root / "etc")) == before
        if kind == "plain":
            assert os.getxattr(target, "user.label") == b"kept"
        elif kind == "hard link":
            assert (place.root / "etc/other").read_bytes() == b"new" * 100_000
        else:
            assert (place.top / "bound").read_bytes() == b"new" * 100_000
    finally:
        if kind == "mounted over":
            run("umount", str(target))


def test_folder_that_breaks_off_leaves_the_hosts_file_as_it_was(place: Place) -> None:
    (place.root / "tmp/t").mkdir()
    with open(place.root / "tmp/t/big", "wb") as file:
        file.truncate(400 << 20)
    back = place.top / "back"
    back.mkdir()
    (back / "big").write_text("as it was")
    token = CancelToken()
    threading.Timer(0.05, token.cancel).start()
    with pytest.raises(Cancelled):
        place.files.download_dir("/tmp/t", str(back), contents_only=True, token=token)
    assert os.listdir(back) == ["big"]
    assert (back / "big").read_text() == "as it was"


def test_symlinks_are_followed_inside_the_root(place: Place) -> None:
    (place.root / "var").symlink_to("/etc")
    (place.root / "etc/resolv.conf").symlink_to("../tmp/stub")
    (place.root / "etc/out").symlink_to(place.outside / "secret")
    (place.root / "etc/up").symlink_to("../../../../../.." + str(place.outside / "secret"))
    place.upload("/var/resolv.conf", b"inside")
    assert (place.root / "tmp/stub").read_bytes() == b"inside"
    assert (place.root / "etc/resolv.conf").is_symlink()
    for name in ("/etc/out", "/etc/up", f"/etc/../../../..{place.outside}/secret"):
        with pytest.raises(BuildError, match="does not exist"):
            place.upload(name, b"bad")
        with pytest.raises(BuildError, match="does not exist"):
            place.download(name)
    assert (place.outside / "secret").read_text() == "secret"


@pytest.mark.parametrize(
    ("remote", "words"),
    [
        ("/etc", "'/etc': that is a folder"),
        ("/etc/", "'/etc/': that is a folder"),
        ("/new/", "'/new/': that is a folder"),
        ("/missing/a/b", "/missing does not exist"),
        ("/etc/file/x", "/etc/file is not a folder"),
        ("/etc/fifo", "/etc/fifo: is no regular file"),
        ("/etc/loop", "too many symlinks"),
        ("/etc/null", "no regular file"),
        ("a\0b", "Invalid"),
    ],
)
def test_upload_that_cannot_be(place: Place, remote: str, words: str) -> None:
    (place.root / "etc/file").touch()
    (place.root / "etc/loop").symlink_to("loop")
    os.mkfifo(place.root / "etc/fifo")
    os.mknod(place.root / "etc/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with pytest.raises(BuildError, match=words):
        place.upload(remote, b"x" * 2_000_000)
    place.upload("/etc/next", b"still works")
    assert (place.root / "etc/next").read_bytes() == b"still works"


@pytest.mark.parametrize(
    ("remote", "words"),
    [("/etc", "is a folder"), ("/missing", "does not exist"), ("/etc/fifo", "no regular file")],
)
def test_download_that_cannot_be(place: Place, remote: str, words: str) -> None:
    os.mkfifo(place.root / "etc/fifo")
    with pytest.raises(BuildError, match=words):
        place.download(remote)


def test_folder_up_and_down(place: Place) -> None:
    local = make_local(place.top)
    place.upload_dir("/tmp/target", contents_only=True)
    place.upload_dir("/tmp", contents_only=False)
    back = place.download_dir("/tmp/target/", "back")
    named = place.download_dir("/tmp/target", "named", contents_only=False) / "target"
    listing = ["find", ".", "!", "-name", "fifo", "-printf", "%P %y %m %l\n"]

    def listed(path: Path) -> list[str]:
        text = subprocess.run(listing, cwd=path, capture_output=True, check=True).stdout
        return sorted(line for line in os.fsdecode(text).splitlines() if not line.startswith(" d"))

    expected = listed(local)
    assert len(expected) == 9
    for copy in (place.root / "tmp/target", place.root / "tmp/local", back, named):
        assert listed(copy) == expected
        assert (copy / "sub/deep/script").read_text() == "#!/bin/sh"
    assert any("fifo was not copied" in warning for warning in place.warnings)


def test_exclude(place: Place) -> None:
    make_local(place.top)
    place.upload_dir("/tmp/t", contents_only=True, exclude=["sub/deep/", "./zero", "link"])
    left = {path.name for path in (place.root / "tmp/t").rglob("*")}
    assert left == {"sub", "file", "empty", "far", os.fsdecode(b"n\xffme \xc3\xa9")}


def test_folder_onto_what_is_there(place: Place) -> None:
    """A symlinked folder of the image (as /lib is on merged systems) is not replaced."""
    make_local(place.top)
    (place.root / "tmp/t/real").mkdir(parents=True)
    (place.root / "tmp/t/sub").symlink_to("/tmp/t/real")
    (place.root / "tmp/t/zero").symlink_to("/etc/zero")
    (place.root / "tmp/t/link").write_text("a file")
    place.upload_dir("/tmp/t", contents_only=True)
    assert (place.root / "tmp/t/sub").is_symlink()
    assert (place.root / "tmp/t/real/file").read_text() == "one"
    assert (place.root / "etc/zero").exists()
    assert os.readlink(place.root / "tmp/t/link") == "sub/file"


def test_folder_that_cannot_be_copied(place: Place) -> None:
    local = make_local(place.top)
    (place.root / "tmp/t").mkdir()
    (place.root / "tmp/t/sub").write_text("a file in the way")
    with pytest.raises(BuildError, match="/tmp/t/sub is not a folder"):
        place.upload_dir("/tmp/t", contents_only=True)
    with pytest.raises(BuildError, match="/nowhere does not exist"):
        place.upload_dir("/nowhere/x", contents_only=True)
    with pytest.raises(BuildError, match="/nowhere does not exist"):
        place.download_dir("/nowhere", "back")
    assert not (place.top / "back").exists()
    shutil.rmtree(local)
    with pytest.raises(BuildError, match="local does not exist"):
        place.upload_dir("/tmp/u", contents_only=True)


@pytest.mark.parametrize("name", list(HOSTS))
def test_disk_full_and_read_only(name: str, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    with no_mount_left(tmp_path), loop_device(tmp_path, size_mib=8, guest=False) as device:
        root = tmp_path / "root"
        run("mount", device, str(root))
        try:
            with open_rootfs(HOSTS[name], root) as files:
                chunks = (b"x" * 1_000_000 for _ in range(200))
                with pytest.raises(BuildError, match="no space left for /big") as caught:
                    files.upload("/big", chunks, mode=0, token=CancelToken())
                assert "root_volume_size" in caught.value.hint
                assert not (root / "big").exists()
                tree = tmp_path / "tree"
                tree.mkdir()
                (tree / "a").write_bytes(b"x" * 12_000_000)
                with pytest.raises(BuildError, match="no space left for /t/a"):
                    files.upload_dir(str(tree), "/t", contents_only=True, token=CancelToken())
                assert not (root / "t/a").exists()
                (root / "old").write_text("as it was")
                chunks = (b"x" * 1_000_000 for _ in range(200))
                with pytest.raises(BuildError, match="no space left for /old"):
                    files.upload("/old", chunks, mode=0, token=CancelToken())
                assert sorted(os.listdir(root)) == ["lost+found", "old", "t"]
                assert (root / "old").read_text() == "as it was"
                # Of a file with another name the content is written over: that takes room twice.
                os.link(root / "old", root / "linked")
                free = os.statvfs(root).f_bavail * os.statvfs(root).f_frsize
                chunks = (b"x" * (free * 2 // 30) for _ in range(10))
                with pytest.raises(BuildError, match="no space left for /old"):
                    files.upload("/old", chunks, mode=0, token=CancelToken())
                assert sorted(os.listdir(root)) == ["linked", "lost+found", "old", "t"]
                assert (root / "linked").read_text() == "as it was"
                files.upload("/old", [b"new"], mode=0, token=CancelToken())
                assert (root / "linked").read_text() == "new"
                run("mount", "-o", "remount,ro", str(root))
                with pytest.raises(BuildError, match="read-only"):
                    files.upload("/x", [b"x"], mode=0, token=CancelToken())
        finally:
            run("umount", str(root))


def test_cancel_ends_transfers(place: Place) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 1000
            time.sleep(0.001)

    token = CancelToken()
    threading.Timer(0.4, token.cancel).start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        place.files.upload("/tmp/endless", endless(), mode=0, token=token)
    assert time.monotonic() - start < 1.3
    time.sleep(0.2)
    assert not (place.root / "tmp/endless").exists()
    (place.root / "tmp/sparse").touch()
    os.truncate(place.root / "tmp/sparse", 1 << 40)
    token = CancelToken()
    threading.Timer(0.4, token.cancel).start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        for _ in place.files.download("/tmp/sparse", token=token):
            pass
    assert time.monotonic() - start < 1.3


def test_folder_that_fails_frees_the_root_though_its_error_is_kept(place: Place) -> None:
    """As an error is until it has been shown: its traceback holds all that the transfer had."""
    make_local(place.root / "tmp")
    (place.root / "tmp/back").mkdir()
    local = place.top / "back"
    (local / "sub/file").mkdir(parents=True)
    place.upload("/tmp/a", b"x")
    gc.collect()
    before = open_below(place.root)
    with pytest.raises(BuildError, match="is a folder") as caught:
        place.files.download_dir("/tmp/local", str(local), contents_only=True, token=CancelToken())
    with pytest.raises(BuildError, match="secret/x is not a folder"):
        place.files.download_dir(
            "/tmp/local", f"{place.outside}/secret/x", contents_only=True, token=CancelToken()
        )
    assert caught.value.__traceback__ is not None
    # The agent that was at it has ended.
    assert getattr(place.files.files, "_agent", None) is None
    assert open_below(place.root) == before


def open_below(root: Path) -> list[str]:
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    targets = [os.readlink(link) for link in links if os.path.islink(link)]
    return [target for target in targets if target.startswith(str(root))]


@pytest.mark.parametrize("path", ["/no\0where", "nul\0"])
def test_nul_byte_in_a_path_of_the_host(place: Place, path: str) -> None:
    shown = path.replace("\0", r"\\0")
    with pytest.raises(BuildError, match=f"{shown}: no path holds a NUL byte"):
        place.files.upload_dir(path, "/tmp", contents_only=True, token=CancelToken())
    with pytest.raises(BuildError, match=f"{shown}: no path holds a NUL byte"):
        place.files.download_dir("/tmp", path, contents_only=True, token=CancelToken())


def test_stopping_a_download_frees_the_root(place: Place) -> None:
    (place.root / "tmp/big").write_bytes(b"x" * 5_000_000)
    stream = place.files.download("/tmp/big", token=CancelToken())
    assert isinstance(stream, Iterator)
    next(stream)
    stream.close()
    place.upload("/tmp/after", b"x")
    assert (place.root / "tmp/after").exists()


def test_nothing_stays_open(place: Place) -> None:
    make_local(place.top)
    place.upload("/tmp/a", b"x")
    # What earlier tests dropped must not be collected while we count.
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    place.upload("/tmp/a", b"x")
    place.download("/tmp/a")
    place.upload_dir("/tmp/t", contents_only=True)
    place.download_dir("/tmp/t", "back")
    assert len(os.listdir("/proc/self/fd")) == before


def test_five_thousand_small_files(place: Place) -> None:
    local = place.top / "local"
    for number in range(50):
        (local / str(number)).mkdir(parents=True)
        for name in range(100):
            (local / str(number) / f"{name}.conf").write_text("x" * 100)
    # Our own CPU time: neither the disk nor other load is what is tested.
    start = os.times().user
    place.upload_dir("/tmp/many", contents_only=True)
    took = os.times().user - start
    assert sum(1 for _ in (place.root / "tmp/many").rglob("*.conf")) == 5000
    assert took < 0.8


def test_wrapper_that_does_not_work(tmp_path: Path) -> None:
    host = Host(wrap=lambda command: "echo 'sudo: a password is required' >&2; exit 1")
    with open_rootfs(host, tmp_path) as files:
        with pytest.raises(BuildError, match="a password is required"):
            files.upload("/x", [b"x"], mode=0, token=CancelToken())


def test_hanging_wrapper_is_cancelled(tmp_path: Path) -> None:
    token = CancelToken()
    threading.Timer(0.3, token.cancel).start()
    start = time.monotonic()
    with open_rootfs(Host(wrap=lambda command: "sleep 91; :"), tmp_path) as files:
        with pytest.raises(Cancelled):
            files.upload("/x", [b"x"], mode=0, token=token)
    assert time.monotonic() - start < 1.5
