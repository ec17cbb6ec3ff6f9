"""A signal while a source OMI is being made into a disk image: it ends at once, and nothing is left."""

import gzip
import os
import signal
import struct
import subprocess
import tarfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from leaks import Machine
from localcloud_command import ROOT, command

pytestmark = pytest.mark.root

MIB = 1024**2
GIB = 1024**3


def large_qcow2(file: Path) -> Path:
    """64 GiB, which take minutes to write: each cluster's data are the same 2 MiB."""
    bits = 21
    compress = zlib.compressobj(wbits=-12)
    data = compress.compress(b"\1" * (1 << bits)) + compress.flush()
    l1, l2, place = 1 << bits, 2 << bits, 3 << bits
    entry = 1 << 62 | len(data) // 512 << (62 - (bits - 8)) | place
    with open(file, "wb") as stream:
        stream.write(
            struct.pack(
                ">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, bits, 64 * GIB, 0, 1, l1, 0, 0, 0, 0
            )
        )
        stream.seek(l1)
        stream.write(struct.pack(">Q", l2))
        stream.seek(l2)
        stream.write(struct.pack(">Q", entry) * ((64 * GIB) >> bits))
        stream.seek(place)
        stream.write(data)
        stream.truncate(place + MIB)
    return file


def large_tarball(file: Path) -> Path:
    """One file of 64 GiB of zeros: compressed files can be put one after the other."""
    entry = tarfile.TarInfo("etc")
    entry.size = 64 * GIB
    zeros = gzip.compress(bytes(64 * MIB))
    file.write_bytes(gzip.compress(entry.tobuf(format=tarfile.GNU_FORMAT)) + zeros * 1024)
    return file


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("make", [large_qcow2, large_tarball])
@pytest.mark.parametrize("action", [("run",), ("serve",)])
def test_it_is_given_up(
    leak_check: Machine,
    tmp_path: Path,
    make: Callable[[Path], Path],
    action: tuple[str, ...],
    number: signal.Signals,
) -> None:
    source = make(tmp_path / "source")
    then = ("--", "true") if action == ("run",) else ()
    with subprocess.Popen(
        command(*action, "--source-omi", f"ami-12345678={source}", *then),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 30
        while not [*leak_check.temporary.glob("osc-chroot-localcloud-*/ami-12345678.*")]:
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.02)
        time.sleep(0.3)
        asked = time.monotonic()
        os.kill(process.pid, number)
        _, said = process.communicate(timeout=30)
        # A second by itself; the rest is for a machine that is busy. To the end it takes minutes.
        assert time.monotonic() - asked < 5
    assert process.returncode == 128 + number
    assert said == "localcloud: stopped before the Region was up\n"
    assert [*leak_check.temporary.iterdir()] == []
