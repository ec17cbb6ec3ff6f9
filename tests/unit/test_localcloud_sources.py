"""What source OMIs are made from, and what is said of that which none can be made from."""

import gzip
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from packer_plugin_osc_chroot.localcloud.files import GIB
from packer_plugin_osc_chroot.localcloud.images import tiny_image
from packer_plugin_osc_chroot.localcloud.sources import SourceError, check_source, open_source

# An image of images.py has its filesystem there.
OFFSET = 1024**2
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


def make_tree(root: Path) -> Path:
    (root / "etc").mkdir(parents=True)
    (root / "etc/hostname").write_text("here\n")
    (root / "usr/bin").mkdir(parents=True)
    program = root / "usr/bin/ping"
    program.write_bytes(b"program")
    program.chmod(0o4755)
    os.link(program, root / "usr/bin/ping6")
    os.symlink("usr/bin", root / "bin")
    return root


def debugfs(image: Path, request: str) -> str:
    result = subprocess.run(
        ["debugfs", "-R", request, f"{image}?offset={OFFSET}"],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin", "DEBUGFS_PAGER": "cat"},
        timeout=30,
    )
    return result.stdout


def check_root(image: Path) -> None:
    assert debugfs(image, "cat /etc/hostname") == "here\n"
    assert "Mode:  04755" in debugfs(image, "stat /usr/bin/ping")
    assert "Links: 2" in debugfs(image, "stat /usr/bin/ping6")
    assert 'Fast link dest: "usr/bin"' in debugfs(image, "stat /bin")


def test_a_raw_image_is_used_where_it_is(tmp_path: Path) -> None:
    image = tiny_image(tmp_path / "a.raw")
    assert open_source(image, scratch=tmp_path, name="ami-1") == image


def test_a_qcow2_image(tmp_path: Path) -> None:
    raw = tiny_image(tmp_path / "a.raw")
    # Told by its content: the name says nothing.
    source = tmp_path / "a.img"
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", raw, source], check=True, timeout=60)
    made = open_source(source, scratch=tmp_path, name="ami-1")
    assert made == tmp_path / "ami-1.raw"
    subprocess.run(["cmp", raw, made], check=True)


def test_a_directory(tmp_path: Path) -> None:
    made = open_source(make_tree(tmp_path / "root"), scratch=tmp_path, name="ami-1")
    assert made.stat().st_size == GIB
    check_root(made)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_a_tarball(tmp_path: Path, mode: str) -> None:
    tree = make_tree(tmp_path / "root")
    source = tmp_path / "root.anything"
    with tarfile.open(source, mode) as tar:  # type: ignore[call-overload]
        tar.add(tree, ".")
    made = open_source(source, scratch=tmp_path, name="ami-1")
    check_root(made)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ami-1.raw", "root", source.name]


@pytest.mark.root
def test_owners_and_capabilities_stay(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "root")
    os.chown(tree / "etc/hostname", 1234, 5678)
    os.setxattr(tree / "usr/bin/ping", "security.capability", CAPABILITY)
    source = tmp_path / "root.tar"
    subprocess.run(["tar", "--xattrs", "--xattrs-include=*", "-cf", source, "-C", tree, "."])
    for given in (tree, source):
        made = open_source(given, scratch=tmp_path, name=f"ami-{given.suffix[1:]}")
        found = debugfs(made, "stat /etc/hostname")
        assert "User:  1234" in found and "Group:  5678" in found
        assert "security.capability" in debugfs(made, "ea_list /usr/bin/ping")


def test_a_tarball_that_leaves_its_place_does_not(tmp_path: Path) -> None:
    source = tmp_path / "root.tar"
    with tarfile.open(source, "w") as tar:
        tar.add(make_tree(tmp_path / "root"), ".")
        link = tarfile.TarInfo("out")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo("out/planted"))
        tar.addfile(tarfile.TarInfo("../planted"))
    with pytest.raises(SourceError, match="tar cannot unpack it"):
        open_source(source, scratch=tmp_path / "root", name="ami-1")
    assert not (tmp_path / "planted").exists()
    assert not (tmp_path / "root/planted").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"KDMV" + bytes(600), "is a VMDK image: qemu-img convert"),
        (b"vhdxfile" + bytes(600), "is a VHDX image"),
        (bytes(0x40) + b"\x7f\x10\xda\xbe", "is a VDI image"),
        (bytes(0x8001) + b"CD001" + bytes(20), "is an ISO image"),
        (
            gzip.compress(bytes(5000), mtime=0),
            "is compressed with gzip and is no tarball: run gunzip",
        ),
        (b"\x28\xb5\x2f\xfd" + bytes(600), "is compressed with zstd and is no tarball"),
    ],
)
def test_what_is_no_source_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    source = tmp_path / "disk"
    source.write_bytes(content)
    with pytest.raises(SourceError, match=said) as caught:
        check_source(source)
    assert str(source) in str(caught.value)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nothing: No such file or directory"):
        check_source(tmp_path / "nothing")


def test_a_directory_that_is_no_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    with pytest.raises(SourceError, match="holds no root filesystem"):
        open_source(tmp_path, scratch=tmp_path, name="ami-1")
