"""qcow2 images, written here byte by byte as the format's document has them."""

import random
import struct
import subprocess
import zlib
from collections.abc import Mapping
from pathlib import Path

import pytest

from packer_plugin_osc_chroot.localcloud import qcow2
from packer_plugin_osc_chroot.localcloud.qcow2 import Qcow2Error

BITS = 16
CLUSTER = 1 << BITS
SIZE = 40 * CLUSTER + 1536


def cluster_of(number: int) -> bytes:
    return struct.pack(">I", number) * (CLUSTER // 4)


def write(
    path: Path,
    *,
    version: int = 3,
    plain: Mapping[int, bytes] = {},
    compressed: Mapping[int, bytes] = {},
    zero: tuple[int, ...] = (),
    features: int = 0,
    backing: int = 0,
    crypt: int = 0,
    compression: int = 0,
) -> None:
    """Header, L1, L2, the plain clusters, then the compressed ones back to back."""
    l1_offset, l2_offset, data = CLUSTER, 2 * CLUSTER, 3 * CLUSTER
    table = [0] * (CLUSTER // 8)
    body = bytearray()
    for number, content in plain.items():
        table[number] = (data + len(body)) | 1 << 63
        body += content
    for number in zero:
        table[number] = 1
    for number, content in compressed.items():
        packer = zlib.compressobj(9, zlib.DEFLATED, -12)
        packed = packer.compress(content) + packer.flush()
        place = data + len(body)
        sectors = (place % 512 + len(packed) - 1) // 512
        table[number] = 1 << 62 | sectors << (62 - (BITS - 8)) | place
        body += packed
    head = struct.pack(
        ">4sIQIIQIIQQIIQ",
        b"QFI\xfb",
        version,
        backing,
        5 if backing else 0,
        BITS,
        SIZE,
        crypt,
        1,
        l1_offset,
        0,
        0,
        0,
        0,
    )
    if version == 3:
        length = 112 if compression else 104
        head += struct.pack(">QQQIIB", features, 0, 0, 4, length, compression)
    image = bytearray(data) + body
    image[: len(head)] = head
    struct.pack_into(">Q", image, l1_offset, l2_offset | 1 << 63)
    struct.pack_into(f">{len(table)}Q", image, l2_offset, *table)
    # QEMU reads whole sectors of compressed data.
    path.write_bytes(image + bytes(-len(image) % 512))


def expected(content: Mapping[int, bytes]) -> bytes:
    disk = bytearray(SIZE)
    for number, data in content.items():
        disk[number * CLUSTER : (number + 1) * CLUSTER] = data
    return bytes(disk[:SIZE])


@pytest.mark.parametrize("version", [2, 3])
def test_what_is_in_it_is_in_the_raw_image(tmp_path: Path, version: int) -> None:
    plain = {number: cluster_of(number) for number in (0, 1, 2, 7, 40)}
    packed = {number: cluster_of(number + 100) for number in (3, 4, 30)}
    source, target = tmp_path / "a.qcow2", tmp_path / "a.raw"
    write(source, version=version, plain=plain, compressed=packed)
    qcow2.convert(source, target)
    assert target.read_bytes() == expected({**plain, **packed})
    assert target.stat().st_blocks * 512 <= 9 * CLUSTER


@pytest.mark.parametrize("options", [["-c"], [], ["-o", "compat=0.10"]], ids="-".join)
def test_what_qemu_wrote_is_read(tmp_path: Path, options: list[str]) -> None:
    raw, source, target = tmp_path / "r.raw", tmp_path / "a.qcow2", tmp_path / "a.raw"
    noise = random.Random(1)
    with open(raw, "wb") as stream:
        stream.truncate(64 * 1024**2)
        for at in (0, 5, 6, 33, 63):
            stream.seek(at * 1024**2)
            stream.write(noise.randbytes(300_000) + bytes(200_000) + b"text" * 50_000)
        stream.truncate(64 * 1024**2)
    command = ["qemu-img", "convert", "-O", "qcow2", *options, str(raw), str(source)]
    subprocess.run(command, check=True, timeout=60)
    qcow2.convert(source, target)
    assert target.read_bytes() == raw.read_bytes()


def test_zeros_take_no_room(tmp_path: Path) -> None:
    source, target = tmp_path / "a.qcow2", tmp_path / "a.raw"
    zeros = bytes(CLUSTER)
    write(source, plain={1: zeros}, compressed={2: zeros}, zero=(3,))
    qcow2.convert(source, target)
    assert target.read_bytes() == expected({})
    assert target.stat().st_blocks == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backing": 200}, "has a backing file: .* qemu-img convert"),
        ({"crypt": 1}, "is encrypted"),
        ({"features": 2}, "is marked as corrupt"),
        ({"features": 4}, "keeps its data in another file"),
        ({"features": 16}, "has extended L2 entries"),
        ({"features": 8, "compression": 1}, "is compressed with zstd"),
        ({"version": 4}, "is of qcow2 version 4"),
    ],
)
def test_what_is_not_read_is_refused(tmp_path: Path, options: dict[str, int], said: str) -> None:
    source, target = tmp_path / "a.qcow2", tmp_path / "a.raw"
    write(source, **options)  # type: ignore[arg-type]
    with pytest.raises(Qcow2Error, match=said):
        qcow2.convert(source, target)
    assert not target.exists()


@pytest.mark.parametrize("kind", ["plain", "compressed"])
@pytest.mark.parametrize("length", [40, 2 * CLUSTER + 100, 3 * CLUSTER + 20])
def test_a_part_of_an_image_is_refused(tmp_path: Path, kind: str, length: int) -> None:
    source, target = tmp_path / "a.qcow2", tmp_path / "a.raw"
    write(source, **{kind: {1: cluster_of(1)}})  # type: ignore[arg-type]
    source.write_bytes(source.read_bytes()[:length])
    with pytest.raises(Qcow2Error, match="was not downloaded whole"):
        qcow2.convert(source, target)
    assert not target.exists()
