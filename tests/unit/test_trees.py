"""Files that are written over others, without a root around them."""

import errno
import os
from pathlib import Path

import pytest

from packer_plugin_osc_chroot.host.trees import open_for_writing


@pytest.mark.parametrize("size", [0, 20_000, 50_000])
def test_a_file_of_two_names_on_a_filesystem_that_allocates_nothing_ahead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """As ext3: there the C library looks what is there and writes, unless it may only write."""

    def look_and_write(file: int, offset: int, length: int) -> None:
        if offset < os.fstat(file).st_size:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        os.pwrite(file, bytes(length), offset)

    monkeypatch.setattr(os, "posix_fallocate", look_and_write)
    (tmp_path / "one").write_bytes(b"o" * 30_000)
    os.link(tmp_path / "one", tmp_path / "other")
    directory = os.open(tmp_path, os.O_RDONLY)
    try:
        file = open_for_writing(directory, "one", rooted=None, real="/one", mode=0o644)
        file.write(b"n" * size)
        file.commit()
    finally:
        os.close(directory)
    assert (tmp_path / "other").read_bytes() == b"n" * size
    assert sorted(os.listdir(tmp_path)) == ["one", "other"]
