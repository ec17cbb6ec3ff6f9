"""copy_files: there while provisioners run, and the image as it was afterwards."""

import errno
import os
import stat
import struct
import threading
from pathlib import Path

import pytest
from copied_tree import copied, inside, made_source, state
from guest_tree import run

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, Cancelled, UndoError
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.copy_files import copied_files
from packer_plugin_osc_chroot.host.transfer import RootFs, open_rootfs
from packer_plugin_osc_chroot.ui import RecordingUi

pytestmark = pytest.mark.root

NOBODY = 0xFFFFFFFF


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return made_source(tmp_path)


def test_a_cancel_amid_a_large_file_leaves_the_root_as_it_was(source: Path, tmp_path: Path) -> None:
    os.truncate(source, 1 << 40)
    at = inside(tmp_path, source)
    at.parent.mkdir(parents=True)
    at.write_text("the image's own\n")
    before = state(tmp_path / "root")
    token = CancelToken()
    timer = threading.Timer(0.2, token.cancel)
    with open_rootfs(Host(), tmp_path / "root") as rootfs, pytest.raises(Cancelled):
        timer.start()
        with copied_files(
            rootfs,
            [str(source)],
            host=Host(),
            root=Path("/no/such/root"),
            ui=RecordingUi(),
            token=token,
        ):
            raise AssertionError
    assert state(tmp_path / "root") == before


@pytest.mark.parametrize(
    "had", ["file", "dangling", "link", "absolute", "hardlink", "nothing", "no folder"]
)
@pytest.mark.parametrize("then", ["untouched", "written", "replaced", "removed", "folder", "link"])
def test_the_image_is_as_it_was(
    rootfs: RootFs, tmp_path: Path, source: Path, had: str, then: str
) -> None:
    target = inside(tmp_path, source)
    if had != "no folder":
        target.parent.mkdir(parents=True)
    if had == "file":
        target.write_text("the image's own")
        target.chmod(0o604)
        os.chown(target, 7, 8)
        os.utime(target, ns=(1, 1))
        os.setxattr(target, "user.label", b"kept")
    elif had == "hardlink":
        target.write_text("shared")
        os.link(target, target.parent / "other")
    elif had == "dangling":
        target.symlink_to("../run/nowhere")
    elif had == "absolute":
        target.symlink_to(tmp_path / "outside")
    elif had == "link":
        (target.parent / "real").write_text("behind the link")
        target.symlink_to("real")
    before = state(tmp_path / "root")
    ui = RecordingUi()
    with copied(rootfs, source, ui=ui):
        assert not target.is_symlink()
        assert target.read_text() == "nameserver 192.0.2.1\n"
        found = target.stat()
        assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o640, 5, 6)
        if then == "written":
            target.write_text("changed by a provisioner")
        elif then != "untouched":
            target.unlink()
            if then == "replaced":
                target.write_text("another")
            elif then == "folder":
                (target / "x").mkdir(parents=True)
            elif then == "link":
                target.symlink_to(tmp_path / "outside")
    assert state(tmp_path / "root") == before
    assert not (tmp_path / "outside").exists()
    assert ("was changed during provisioning" in ui.text) == (then != "untouched")
    if had == "file":
        assert os.getxattr(target, "user.label") == b"kept"


def test_symlink_on_the_host_is_followed(rootfs: RootFs, tmp_path: Path, source: Path) -> None:
    link = source.parent / "link"
    link.symlink_to("resolv.conf")
    with copied(rootfs, link):
        assert inside(tmp_path, link).read_text() == "nameserver 192.0.2.1\n"
        assert not inside(tmp_path, link).is_symlink()


def test_folder_with_other_files_of_a_provisioner_stays(
    rootfs: RootFs, tmp_path: Path, source: Path
) -> None:
    with copied(rootfs, source):
        (inside(tmp_path, source).parent / "new").write_text("x")
    assert [each.name for each in inside(tmp_path, source).parent.iterdir()] == ["new"]


def test_missing_source_leaves_nothing(rootfs: RootFs, tmp_path: Path, source: Path) -> None:
    with pytest.raises(BuildError, match="copying /no/such/file") as caught:
        with copied(rootfs, source, "/no/such/file"):
            raise AssertionError
    assert "on this machine" in caught.value.message
    assert not list((tmp_path / "root").iterdir())
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BuildError, match="neither a file nor a folder .on this machine"):
        with copied(rootfs, tmp_path / "pipe"):
            raise AssertionError
    assert not list((tmp_path / "root").iterdir())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of the host: modes, owners, links, an empty folder, something that is no file."""
    top = tmp_path / "host/etc/apt"
    (top / "deep/empty").mkdir(parents=True)
    (top / "deep/key").write_text("key")
    (top / "deep/key").chmod(0o4640)
    (top / "list").write_text("list")
    (top / "link").symlink_to("../../nowhere")
    os.mkfifo(top / "pipe")
    for path, owner in ((top, 3), (top / "deep", 4), (top / "deep/key", 5)):
        os.chown(path, owner, owner + 1)
    (top / "deep/key").chmod(0o4640)
    (top / "deep").chmod(0o2751)
    os.chown(top / "link", 6, 7, follow_symlinks=False)
    return top


def shown(path: Path) -> tuple[int, int, int]:
    found = path.lstat()
    return stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid


@pytest.mark.parametrize("had", ["nothing", "folder", "file", "link", "link to a folder"])
def test_folder_is_there_and_goes_again(
    rootfs: RootFs, tmp_path: Path, folder: Path, had: str
) -> None:
    target = inside(tmp_path, folder)
    if had != "nothing":
        target.parent.mkdir(parents=True)
    if had == "folder":
        (target / "deep").mkdir(parents=True)
        (target / "deep/key").write_text("the image's own")
        (target / "other").write_text("of the image alone")
        (target / "link").mkdir()
    elif had == "file":
        target.write_text("a file where the host has a folder")
    elif had == "link":
        target.symlink_to("/dangling")
    elif had == "link to a folder":
        (tmp_path / "root/elsewhere").mkdir()
        target.symlink_to("/elsewhere")
    before = state(tmp_path / "root")
    ui = RecordingUi()
    with copied(rootfs, folder, ui=ui):
        real = tmp_path / "root/elsewhere" if had == "link to a folder" else target
        assert (real / "deep/key").read_text() == "key"
        assert os.readlink(real / "link") == "../../nowhere"
        for name in ("deep/key", "list", "link", "deep/empty"):
            assert shown(real / name) == shown(folder / name)
        assert not (real / "pipe").exists()
        if had == "folder":
            assert (real / "other").read_text() == "of the image alone"
        else:
            assert shown(real / "deep") == shown(folder / "deep")
    assert state(tmp_path / "root") == before
    assert f"{folder}/pipe is no file, folder or link" in ui.text


# What setfacl -m u:7:r writes (linux/posix_acl_xattr.h), and setcap cap_net_raw=ep.
ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, 4, number)
    for tag, number in ((1, NOBODY), (2, 7), (4, NOBODY), (0x10, NOBODY), (0x20, NOBODY))
)
ATTRIBUTES = {
    "user.note": b"of the host",
    "security.capability": struct.pack("<5I", 0x02000001, 1 << 13, 0, 0, 0),
    "security.selinux": b"system_u:object_r:net_conf_t:s0\0",
    "system.posix_acl_access": ACL,
}


def attributes(path: Path) -> dict[str, bytes]:
    names = os.listxattr(path, follow_symlinks=False)
    return {name: os.getxattr(path, name, follow_symlinks=False) for name in names}


def test_attributes_acls_and_labels_are_kept(rootfs: RootFs, tmp_path: Path, source: Path) -> None:
    """As `cp -a` does it; times of files too."""
    folder = source.parent
    (folder / "link").symlink_to("resolv.conf")
    os.setxattr(folder / "link", "security.selinux", b"l", follow_symlinks=False)
    os.setxattr(folder, "system.posix_acl_default", ACL)
    for name, value in ATTRIBUTES.items():
        os.setxattr(source, name, value)
    os.utime(source, ns=(10**18, 10**18))
    before = source.stat()
    target = inside(tmp_path, source)
    with copied(rootfs, folder):
        assert attributes(target) == ATTRIBUTES
        assert attributes(target.parent) == {"system.posix_acl_default": ACL}
        assert attributes(target.parent / "link") == {"security.selinux": b"l"}
        assert (target.stat().st_mode, target.stat().st_uid) == (before.st_mode, before.st_uid)
        assert target.stat().st_mtime_ns == 10**18
    assert not target.parent.exists()


def test_filesystem_without_attributes_gets_the_file(
    rootfs: RootFs, tmp_path: Path, source: Path
) -> None:
    for name, value in ATTRIBUTES.items():
        os.setxattr(source, name, value)
    target = inside(tmp_path, source)
    target.parent.mkdir(parents=True)
    run("mount", "-t", "ramfs", "ramfs", str(target.parent))
    try:
        with copied(rootfs, source):
            assert target.read_text() == source.read_text()
        assert list(target.parent.iterdir()) == []
    finally:
        run("umount", str(target.parent))


def test_what_provisioners_add_to_a_folder_stays(
    rootfs: RootFs, tmp_path: Path, folder: Path
) -> None:
    target = inside(tmp_path, folder)
    with copied(rootfs, folder):
        (target / "deep/new").write_text("by a provisioner")
        (target / "list").write_text("changed")
    assert [str(each.relative_to(target)) for each in sorted(target.rglob("*"))] == [
        "deep",
        "deep/new",
    ]


def test_folder_is_not_left_for_another_filesystem(
    rootfs: RootFs, tmp_path: Path, folder: Path
) -> None:
    run("mount", "-t", "tmpfs", "tmpfs", str(folder / "deep/empty"))
    try:
        (folder / "deep/empty/large").write_text("of another disk")
        with copied(rootfs, folder):
            assert not (inside(tmp_path, folder) / "deep/empty").exists()
    finally:
        run("umount", str(folder / "deep/empty"))


def test_links_in_the_image_lead_nowhere_outside(
    rootfs: RootFs, tmp_path: Path, source: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    first = Path(*source.parts[:2])
    inside(tmp_path, first).symlink_to("../../../../../../../" + str(outside))
    with pytest.raises(BuildError):
        with copied(rootfs, source):
            raise AssertionError
    assert not list(outside.iterdir())


@pytest.mark.parametrize("had", ["own", "nothing"])
def test_copy_that_a_provisioner_made_immutable_goes_all_the_same(
    rootfs: RootFs, tmp_path: Path, source: Path, had: str
) -> None:
    """As many do with /etc/resolv.conf."""
    ui = RecordingUi()
    target = inside(tmp_path, source)
    target.parent.mkdir(parents=True)
    if had == "own":
        target.write_text("the image's own")
    with copied(rootfs, source, ui=ui):
        run("chattr", "+i", str(target))
    if had == "own":
        assert target.read_text() == "the image's own"
        assert "i" not in run("lsattr", str(target)).split()[0]
    assert len(list(target.parent.iterdir())) == int(had == "own")
    assert "was changed during provisioning" in ui.text


def test_immutable_file_of_the_image_is_said_and_left(
    rootfs: RootFs, tmp_path: Path, source: Path
) -> None:
    target = inside(tmp_path, source)
    target.parent.mkdir(parents=True)
    target.write_text("own")
    run("chattr", "+i", str(target))
    try:
        with pytest.raises(BuildError, match=r"is immutable in the image \(chattr \+i\)"):
            with copied(rootfs, source):
                raise AssertionError
    finally:
        run("chattr", "-i", str(target))
    assert target.read_text() == "own"


def test_file_of_the_image_that_cannot_be_set_aside_stays(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where its folder would have to grow on a full disk."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = inside(tmp_path, source)
    target.parent.mkdir(parents=True)
    target.write_text("own")
    with open_rootfs(Host(), tmp_path / "root") as files:
        monkeypatch.setattr(os, "rename", full)
        with pytest.raises(BuildError, match="no space left"):
            with copied(files, source):
                raise AssertionError
    assert target.read_text() == "own"


def test_lost_original_is_said(rootfs: RootFs, tmp_path: Path, source: Path) -> None:
    target = inside(tmp_path, source)
    target.parent.mkdir(parents=True)
    target.write_text("own")
    with pytest.raises(UndoError, match="could not put back") as caught:
        with copied(rootfs, source):
            for each in target.parent.iterdir():
                each.unlink()
    assert str(source) in caught.value.left[0]


def test_copy_that_cannot_be_put_back_does_not_hide_why_the_build_failed(
    rootfs: RootFs, tmp_path: Path, source: Path
) -> None:
    target = inside(tmp_path, source)
    target.parent.mkdir(parents=True)
    target.write_text("the image's own")
    with pytest.raises(BuildError, match="^the provisioner failed$") as caught:
        with copied(rootfs, source):
            (aside,) = (each for each in target.parent.iterdir() if each != target)
            aside.unlink()
            raise BuildError("the provisioner failed")
    (failure,) = caught.value.not_undone
    assert isinstance(failure, UndoError) and str(source) in failure.left[0]
