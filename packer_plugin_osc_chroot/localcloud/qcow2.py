"""Reads qcow2 disk images, so that cloud images can be used as they are downloaded.

The format: QEMU's docs/interop/qcow2.rst. Read are versions 2 and 3 with zlib-compressed, zero and
unallocated clusters. What needs more (a backing file, encryption, zstd, an external data file,
extended L2 entries) is refused with the command that makes a raw image.
"""

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from packer_plugin_osc_chroot.localcloud.tools import go_on

MAGIC = b"QFI\xfb"

_HEADER = struct.Struct(">4sIQIIQIIQQIIQ")
_HEADER_3 = struct.Struct(">QQQIIB")
_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_ALL_ZERO = 1
_SECTOR = 512
_CORRUPT, _EXTERNAL_DATA, _EXTENDED_L2 = 1 << 1, 1 << 2, 1 << 4
# Reads of clusters that lie one after the other are joined up to this size, in bytes.
_JOINED = 4 * 1024**2
# deflate without a header, with the window that QEMU uses.
_WINDOW = -12


class Qcow2Error(Exception):
    """An image that is not read here. One line, without the file's name."""


@dataclass(frozen=True)
class _Image:
    stream: BinaryIO
    size: int
    cluster: int
    bits: int
    l1: tuple[int, ...]
    version: int


def convert(source: Path, target: Path, *, check: Callable[[], None] = go_on) -> None:
    """Write the disk in `source` to the new raw file `target`, holes kept.

    Raises Qcow2Error, OSError, and what `check` raises; then there is no `target`.
    """
    with open(source, "rb") as stream, open(target, "xb") as raw:
        try:
            image = _open(stream)
            raw.truncate(image.size)
            for offset, data in _data(image, check):
                os.pwrite(raw.fileno(), data[: image.size - offset], offset)
        except BaseException as error:
            target.unlink()
            if isinstance(error, struct.error | zlib.error):
                raise Qcow2Error(f"is damaged, or was not downloaded whole: {error}") from None
            raise


def _open(stream: BinaryIO) -> _Image:
    header = stream.read(_HEADER.size)
    magic, version, backing, _, bits, size, crypt, l1_size, l1_offset = _HEADER.unpack(header)[:9]
    if magic != MAGIC or version not in (2, 3):
        raise Qcow2Error(f"is of qcow2 version {version}: only 2 and 3 are known")
    if not 9 <= bits <= 21:
        raise Qcow2Error(f"is damaged: its clusters have 2^{bits} bytes")
    if version == 3:
        features, _, _, _, length, compression = _HEADER_3.unpack(stream.read(_HEADER_3.size))
        if features & _CORRUPT:
            raise Qcow2Error("is marked as corrupt: qemu-img check -r all may mend it")
        if features & _EXTERNAL_DATA:
            raise _needs_qemu("keeps its data in another file")
        if features & _EXTENDED_L2:
            raise _needs_qemu("has extended L2 entries")
        if length > 104 and compression:
            raise _needs_qemu("is compressed with zstd")
    if backing:
        raise _needs_qemu("has a backing file")
    if crypt:
        raise _needs_qemu("is encrypted")
    stream.seek(l1_offset)
    return _Image(
        stream=stream,
        size=size,
        cluster=1 << bits,
        bits=bits,
        l1=struct.unpack(f">{l1_size}Q", stream.read(8 * l1_size)),
        version=version,
    )


def _needs_qemu(what: str) -> Qcow2Error:
    return Qcow2Error(f"{what}: make a raw image of it with qemu-img convert -O raw FILE disk.raw")


def _data(image: _Image, check: Callable[[], None]) -> Iterator[tuple[int, bytes]]:
    """The clusters that hold data: offset on the disk, content. Those with zeros are left out."""
    zeros = bytes(image.cluster)
    start = place = length = 0
    for number, entry in _entries(image):
        check()
        offset = number * image.cluster
        if entry & _COMPRESSED:
            data = _decompressed(image, entry)
            if data != zeros:
                yield offset, data
            continue
        if image.version == 3 and entry & _ALL_ZERO or not entry & _OFFSET:
            continue
        if length and offset == start + length and entry & _OFFSET == place + length:
            length += image.cluster
        else:
            yield from _stored(image, start, place, length)
            start, place, length = offset, entry & _OFFSET, image.cluster
        if length >= _JOINED:
            yield from _stored(image, start, place, length)
            length = 0
    yield from _stored(image, start, place, length)


def _entries(image: _Image) -> Iterator[tuple[int, int]]:
    """The number and L2 entry of each cluster that has one."""
    per_table = image.cluster // 8
    clusters = -(-image.size // image.cluster)
    for index, entry in enumerate(image.l1):
        if not entry & _OFFSET:
            continue
        image.stream.seek(entry & _OFFSET)
        table = struct.unpack(f">{per_table}Q", image.stream.read(image.cluster))
        for number, each in enumerate(table, start=index * per_table):
            if each and number < clusters:
                yield number, each


def _stored(image: _Image, offset: int, place: int, length: int) -> Iterator[tuple[int, bytes]]:
    if not length:
        return
    image.stream.seek(place)
    data = image.stream.read(length)
    if len(data) < length and offset + len(data) < image.size:
        raise struct.error(f"{length} bytes at {place} were expected, {len(data)} are there")
    if data.count(0) != len(data):
        yield offset, data


def _decompressed(image: _Image, entry: int) -> bytes:
    """Its place and the sectors it takes; what it really takes is where deflate ends."""
    split = 62 - (image.bits - 8)
    place = entry & ((1 << split) - 1)
    sectors = (entry & (_COMPRESSED - 1)) >> split
    image.stream.seek(place)
    data = image.stream.read((sectors + 1) * _SECTOR - place % _SECTOR)
    found = zlib.decompressobj(_WINDOW).decompress(data, image.cluster)
    if len(found) != image.cluster:
        raise struct.error(f"the compressed cluster at {place} ends early")
    return found
