"""Freezes the Python side and packs it for the shim to embed.

Usage: build_bundle.py WORK_DIRECTORY OUTPUT_DIRECTORY

Writes OUTPUT_DIRECTORY/bundle.tar.zst (the frozen service and its bundle.json) and bundle.sha256,
the digest of that file: the shim names its cache after it. The same sources, interpreter and lock
file give the same archive, so that a rebuild does not fill users' caches anew.
"""

import hashlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import zstandard
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.gnuversions import GNUVerNeedSection

ROOT = Path(__file__).resolve().parent.parent
# Both names are the shim's too (shim/internal/bundle).
SERVICE = "packer-plugin-osc-chroot-service"
DESCRIPTION = "bundle.json"

# What hooks and optional imports of the dependencies would draw in, and nothing of ours calls.
EXCLUDED_MODULES = (
    "_pytest",
    "cffi",
    "curses",
    "doctest",
    "grpc_tools",
    "hypothesis",
    "jsonschema.benchmarks",
    "lib2to3",
    "mypy",
    "pip",
    "pkg_resources",
    "pydoc_data",
    "pytest",
    "setuptools",
    "sqlite3",
    "tkinter",
    "turtle",
    "wheel",
    "xmlrpc",
    "zstandard",
)


class BundleError(Exception):
    """The bundle cannot be built; the message is for the user."""


def main(argv: list[str]) -> int:
    if len(argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    work, output = (Path(argument).resolve() for argument in argv)
    try:
        tree = freeze(work)
        floor = glibc_floor(tree)
        description = json.dumps({"glibc": floor}) + "\n"
        (tree / DESCRIPTION).write_text(description, encoding="utf-8")
        packed = pack(tree)
    except BundleError as error:
        print(f"The bundle was not built: {error}", file=sys.stderr)
        return 1
    output.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(packed).hexdigest()
    (output / "bundle.tar.zst").write_bytes(packed)
    (output / "bundle.sha256").write_text(digest + "\n", encoding="ascii")
    size = sum(path.lstat().st_size for path in tree.rglob("*") if path.is_file())
    print(
        f"Bundle: {len(packed) / 2**20:.1f} MiB packed, {size / 2**20:.1f} MiB unpacked, "
        f"needs glibc {floor} or newer"
    )
    return 0


def freeze(work: Path) -> Path:
    """Run PyInstaller; the directory that it leaves."""
    document = work / "outscale.json"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    # The official OpenAPI document as the localcloud reads it, so that no start parses the YAML.
    run("-m", "packer_plugin_osc_chroot.localcloud.openapi", str(document))
    command = [
        *("-m", "PyInstaller", "--noconfirm", "--clean", "--log-level=WARN"),
        *("--onedir", "--strip", "--noupx", f"--name={SERVICE}", f"--paths={ROOT}"),
        f"--workpath={work / 'work'}",
        f"--distpath={work / 'dist'}",
        f"--specpath={work}",
        # Without it the SDK fails at import; its YAML documents stay out.
        f"--add-data={_package('osc_sdk_python') / 'VERSION'}:osc_sdk_python",
        f"--add-data={document}:packer_plugin_osc_chroot/localcloud",
        *("--collect-submodules", "packer_plugin_osc_chroot"),
        *(f"--exclude-module={module}" for module in EXCLUDED_MODULES),
        str(ROOT / "scripts" / "service_entry.py"),
    ]
    run(*command)
    tree = work / "dist" / SERVICE
    for record in tree.rglob("*.dist-info/RECORD"):
        # It has the digests of scripts that name the virtualenv's interpreter.
        record.unlink()
    return tree


def run(*arguments: str) -> None:
    environment = {
        **os.environ,
        "PYTHONHASHSEED": "0",
        "SOURCE_DATE_EPOCH": "0",
        "PYTHONPATH": str(ROOT),
        "PYINSTALLER_CONFIG_DIR": str(ROOT / "build" / "pyinstaller"),
    }
    status = subprocess.run([sys.executable, *arguments], env=environment, cwd=ROOT).returncode
    if status != 0:
        raise BundleError(
            f"python {' '.join(arguments[:2])} ended with status {status} (see above)"
        )


def _package(name: str) -> Path:
    # Found without importing it: that would read the environment and the user's profile.
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise BundleError(f"the package {name} is not installed: run `make .venv`")
    return Path(spec.origin).parent


def glibc_floor(tree: Path) -> str:
    """The lowest glibc that has every symbol version which the tree's ELF files ask for."""
    needed = {
        version
        for path in sorted(tree.rglob("*"))
        if path.is_file() and not path.is_symlink()
        for version in _needed_glibc(path)
    }
    if not needed:
        raise BundleError(f"no file below {tree} needs glibc: this is not a frozen program")
    return ".".join(map(str, max(needed)))


def _needed_glibc(path: Path) -> Iterator[tuple[int, ...]]:
    with path.open("rb") as stream:
        if stream.read(4) != b"\x7fELF":
            return
        try:
            for section in ELFFile(stream).iter_sections():
                if not isinstance(section, GNUVerNeedSection):
                    continue
                for _, versions in section.iter_versions():
                    for version in versions:
                        number = version.name.removeprefix("GLIBC_")
                        if number != version.name and number[0].isdigit():
                            yield tuple(int(part) for part in number.split("."))
        except ELFError as error:
            raise BundleError(f"{path}: {error}") from error


def pack(tree: Path) -> bytes:
    """A tar of the tree that holds no trace of when, where or by whom it was made, compressed."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in sorted(tree.rglob("*")):
            tar.add(path, arcname=str(path.relative_to(tree)), recursive=False, filter=_anonymous)
    content = archive.getvalue()
    # Like zstd -19 --long: the window spans the whole tree up to 128 MiB.
    parameters = zstandard.ZstdCompressionParameters.from_level(
        19, source_size=len(content), window_log=27, enable_ldm=True, threads=-1
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(content)


def _anonymous(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    executable = entry.isdir() or bool(entry.mode & 0o100)
    entry.mode = 0o755 if executable else 0o644
    return entry


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
