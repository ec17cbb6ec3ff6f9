"""What is no regular file where one is named: said at once, never waited for or read for ever."""

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from localcloud_command import localcloud

from packer_plugin_osc_chroot.localcloud import saved
from packer_plugin_osc_chroot.localcloud.catalogue import load_catalogue
from packer_plugin_osc_chroot.localcloud.latency import load_latency
from packer_plugin_osc_chroot.localcloud.region_options import UsageError, check_writable
from packer_plugin_osc_chroot.localcloud.saved import StateError
from packer_plugin_osc_chroot.localcloud.sources import SourceError, check_source
from packer_plugin_osc_chroot.localcloud.toml_file import FileError
from packer_plugin_osc_chroot.localcloud.trouble import load_trouble

KINDS = ["a FIFO", "a directory", "a socket", "a character device"]


def made(kind: str, at: Path) -> Path:
    match kind:
        case "a FIFO":
            os.mkfifo(at)
        case "a directory":
            at.mkdir()
        case "a socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(os.fspath(at))
        case _:
            at.symlink_to("/dev/zero")
    return at


def _load_trouble(file: Path) -> None:
    load_trouble(file, actions=())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("load", [_load_trouble, load_latency, load_catalogue])
def test_a_toml_file(tmp_path: Path, kind: str, load: Callable[[Path], object]) -> None:
    file = made(kind, tmp_path / "file")
    with pytest.raises(FileError) as caught:
        load(file)
    assert str(caught.value) == f"{file}: is {kind}: a regular file is needed"


def test_a_toml_file_that_is_too_long(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with open(file, "wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(FileError, match=f"{file}: is longer than 1024 KiB"):
        _load_trouble(file)


def test_a_toml_file_of_another_encoding(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes("# a\n# é\n".encode("latin1"))
    with pytest.raises(FileError, match="line 2 is not UTF-8: save the file as UTF-8"):
        _load_trouble(file)


def test_a_toml_file_that_breaks_off(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("stale_reads = 1\nforbidden")
    with pytest.raises(FileError, match=r"line 2, its end\): write KEY = VALUE on a line"):
        _load_trouble(file)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "a directory"])
def test_a_source(tmp_path: Path, kind: str) -> None:
    file = made(kind, tmp_path / "file")
    with pytest.raises(SourceError) as caught:
        check_source(file)
    assert str(caught.value) == f"{file}: is {kind}: a regular file is needed"


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_to_be_written(tmp_path: Path, kind: str) -> None:
    file = made(kind, tmp_path / "file")
    with pytest.raises(UsageError) as caught:
        check_writable("--export", file)
    assert str(caught.value) == f"--export: {file}: is {kind}: a regular file is needed"
    check_writable("--export", tmp_path / "new")
    (tmp_path / "old").touch()
    check_writable("--export", tmp_path / "old")


@pytest.mark.parametrize("kind", KINDS)
def test_a_kept_region(tmp_path: Path, kind: str) -> None:
    made(kind, tmp_path / "region.json")
    with pytest.raises(StateError) as caught:
        saved.read(tmp_path)
    wanted = f"cannot be read: is {kind}: a regular file is needed"
    assert str(caught.value) == f"{tmp_path / 'region.json'}: {wanted}"


def test_a_directory_for_a_region_that_is_none(tmp_path: Path) -> None:
    file = made("a FIFO", tmp_path / "file")
    with pytest.raises(StateError, match=f"{file}: is not a directory"):
        with saved.opened(file):
            pass


@pytest.mark.parametrize("option", ["--latency", "--catalogue", "--source-omi", "--state"])
def test_the_command_line_does_not_hang(tmp_path: Path, option: str) -> None:
    file = made("a FIFO", tmp_path / "file")
    value = f"ami-1={file}" if option == "--source-omi" else file
    action = ["status"] if option == "--state" else ["serve"]
    result = localcloud(*action, option, value)
    assert result.returncode != 0
    assert os.fspath(file) in result.stderr
    assert "Traceback" not in result.stderr
