"""Copies of disk images: holes kept, data right, fast."""

import os
import time
from pathlib import Path

from packer_plugin_osc_chroot.localcloud.files import (
    GIB,
    copy_sparse,
    create_sparse,
    gibibytes,
)


def test_gibibytes() -> None:
    assert [gibibytes(size) for size in (1, GIB, GIB + 1, 10 * GIB)] == [1, 1, 2, 10]


def test_large_sparse_copy(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    create_sparse(source, size=10 * GIB)
    with open(source, "r+b") as stream:
        for offset in (0, 5 * GIB + 4096, 10 * GIB - 7):
            stream.seek(offset)
            stream.write(b"written")
    started = time.monotonic()
    copy_sparse(source, target, size=12 * GIB)
    assert time.monotonic() - started < 5
    assert target.stat().st_size == 12 * GIB
    assert target.stat().st_blocks * 512 < 1024**2
    with open(target, "rb") as stream:
        for offset in (0, 5 * GIB + 4096, 10 * GIB - 7):
            stream.seek(offset)
            assert stream.read(7) == b"written"
        assert stream.read(16) == bytes(16)


def test_dense_copy(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    data = os.urandom(3_000_001)
    source.write_bytes(data)
    copy_sparse(source, target)
    assert target.read_bytes() == data
