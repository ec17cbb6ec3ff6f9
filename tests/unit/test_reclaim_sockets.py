"""Directories of services that were killed go; those of living ones, and what looks like them, stay."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from packer_plugin_osc_chroot.reclaim import sockets
from packer_plugin_osc_chroot.reclaim.sockets import remove_dead_sockets


@pytest.fixture
def parent(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Short, since a socket's path is.
    path = tmp_path_factory.mktemp("s")
    monkeypatch.setattr("tempfile.tempdir", str(path))
    return path


@pytest.fixture
def living(parent: Path) -> Iterator[Path]:
    directory = parent / "packer-plugin-osc-chroot-1"
    directory.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(directory / "service.sock"))
        server.listen()
        yield directory


def test_a_living_service_stays(living: Path) -> None:
    remove_dead_sockets()
    assert living.is_dir()


def test_a_dead_one_goes(parent: Path) -> None:
    directory = parent / "packer-plugin-osc-chroot-2"
    directory.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(directory / "service.sock"))
    remove_dead_sockets()
    assert not directory.exists()


def test_one_that_does_not_listen_yet_stays(parent: Path) -> None:
    directory = parent / "packer-plugin-osc-chroot-3"
    directory.mkdir(mode=0o700)
    remove_dead_sockets()
    assert directory.is_dir()
    os.utime(directory, (0, 0))
    remove_dead_sockets()
    assert not directory.exists()


def test_what_only_looks_like_one_stays(parent: Path) -> None:
    link = parent / "packer-plugin-osc-chroot-4"
    link.symlink_to("/etc")
    users = parent / "packer-plugin-osc-chroot-5"
    users.mkdir()
    (users / "notes").write_text("mine")
    (parent / "packer-plugin-osc-chroot-6").write_text("a file")
    remove_dead_sockets()
    assert link.is_symlink() and (users / "notes").exists()
    assert (parent / "packer-plugin-osc-chroot-6").exists()


def test_the_pattern_is_the_shim_s() -> None:
    shim = Path(__file__).parents[2] / "shim/internal/service/service.go"
    assert f'"{sockets._PATTERN}"' in shim.read_text()
