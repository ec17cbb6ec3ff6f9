"""Archives and checksums that tell nothing of when, where or by whom they were made."""

import gzip
import hashlib
import io
import tarfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path

# A zip cannot name an earlier time.
_ZIP_START = datetime(1980, 1, 1, tzinfo=UTC)
_UNIX = 3


def write_zip(archive: Path, file: Path, *, epoch: int) -> None:
    """A zip with one executable."""
    moment = max(datetime.fromtimestamp(epoch, UTC), _ZIP_START)
    entry = zipfile.ZipInfo(file.name, moment.timetuple()[:6])
    entry.create_system = _UNIX
    entry.external_attr = 0o100755 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr(entry, file.read_bytes(), compresslevel=9)


def normalize_tar_gz(archive: Path, *, epoch: int) -> None:
    """The same content, in order, without owners and times of its own."""
    content = io.BytesIO()
    with (
        tarfile.open(archive) as old,
        tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as new,
    ):
        for entry in sorted(old.getmembers(), key=lambda entry: entry.name):
            entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            entry.mtime = epoch
            entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
            entry.pax_headers = {}
            new.addfile(entry, old.extractfile(entry) if entry.isreg() else None)
    with archive.open("wb") as stream:
        with gzip.GzipFile("", "wb", fileobj=stream, mtime=epoch) as packed:
            packed.write(content.getvalue())


def write_checksums(directory: Path, name: str) -> None:
    """A file that `sha256sum --check` reads, of all others in the directory.

    Packer reads it too. It passes over a name that is not a plugin's as long as that ends with .json
    or has three underscores, and else complains of it in other errors: keep to such names.
    """
    lines = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n"
        for file in sorted(directory.iterdir())
        if file.name != name
    ]
    (directory / name).write_text("".join(lines), encoding="ascii")
