"""Builds what a release needs: `make release VERSION=X.Y.Z`.

The tree is copied, given its version and owner, and everything is built from the copy, so that the
working tree stays as it is. The same tree, interpreter, Go and lock files give the same bytes,
wherever and whenever that happens.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from build_bundle import DESCRIPTION, SERVICE
from release_archives import normalize_tar_gz, write_checksums, write_zip
from release_sbom import bill_of_materials
from release_source import SourceError, commit_time, copy_tree, set_identity

ROOT = Path(__file__).resolve().parent.parent
PLUGIN = "packer-plugin-osc-chroot"
# Part of the names that Packer looks for; `describe` must say the same.
API_VERSION = "x5.0"
# What Packer installs from a release: final versions only.
_VERSION = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){2}")
_OWNER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class Target:
    """A system that the release has a build for."""

    os: str
    arch: str

    @property
    def name(self) -> str:
        return f"{self.os}_{self.arch}"

    @property
    def ending(self) -> str:
        return ".exe" if self.os == "windows" else ""


BUNDLED = Target("linux", "amd64")
# Builds run on BUNDLED only: there templates can be validated, where Python has the wheel.
OTHERS = (
    Target("linux", "arm64"),
    Target("darwin", "amd64"),
    Target("darwin", "arm64"),
    Target("windows", "amd64"),
)


class ReleaseError(Exception):
    """The release cannot be built; the message is for the user."""


@dataclass(frozen=True)
class Release:
    """One release on its way: where it is built, and what of."""

    version: str
    owner: str
    epoch: int
    work: Path
    output: Path

    @property
    def source(self) -> Path:
        return self.work / "source"

    @property
    def prefix(self) -> str:
        return f"{PLUGIN}_v{self.version}"

    def binary(self, target: Target) -> Path:
        """Named as Packer wants it in the zip."""
        return self.work / f"{self.prefix}_{API_VERSION}_{target.name}{target.ending}"

    def run(self, *argv: str, cwd: Path | None = None, **variables: str) -> str:
        """The output of a command in the copied tree, or in `cwd`. Raises ReleaseError."""
        environment = {
            **os.environ,
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONPATH": str(self.source),
            "SOURCE_DATE_EPOCH": str(self.epoch),
            # What is built must not depend on the user's settings.
            **dict.fromkeys(("GOFLAGS", "GOEXPERIMENT"), ""),
            **{"GOWORK": "off", "CGO_ENABLED": "0", "GOAMD64": "v1", "GOARM64": "v8.0"},
            **variables,
        }
        done = subprocess.run(
            argv,
            cwd=cwd or self.source,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if done.returncode != 0:
            command = " ".join(argv)
            raise ReleaseError(f"{command}: status {done.returncode}\n{done.stdout.rstrip()}")
        return done.stdout


def main() -> int:
    options = _options()
    os.umask(0o022)
    try:
        release = _begin(options)
        files = build(release, bundled=not options.without_bundle)
    except (ReleaseError, SourceError) as error:
        print(f"The release was not built: {error}", file=sys.stderr)
        return 1
    print(f"\n{release.prefix}, in {release.output}:")
    for file in files:
        print(f"  {file.stat().st_size / 2**20:6.1f} MiB  {file.name}")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Build a release (see `make release`).")
    parser.add_argument("--version", required=True, help="X.Y.Z")
    parser.add_argument("--owner", required=True, help="whose repository the release is in")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="is emptied")
    parser.add_argument(
        "--work",
        type=Path,
        default=ROOT / "build" / "release",
        metavar="DIR",
        help="where it is built; is emptied (default: build/release)",
    )
    parser.add_argument(
        "--without-bundle",
        action="store_true",
        help="leave the Python out of linux_amd64 too; quick, for tests",
    )
    return parser.parse_args()


def _begin(options: argparse.Namespace) -> Release:
    """The copied tree with its version. Raises ReleaseError, SourceError."""
    if not _VERSION.fullmatch(options.version):
        raise ReleaseError(
            f"VERSION is {options.version!r}, which is not of the form X.Y.Z: from a release, Packer"
            " installs no other (development versions are installed with --path, see `make build`)"
        )
    if not _OWNER.fullmatch(options.owner):
        raise ReleaseError(f"OWNER is {options.owner!r}, which is no name of an account")
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise ReleaseError(
            f"this machine is {sys.platform} {platform.machine()}: Python is frozen for the system it"
            " is frozen on, which has to be linux x86_64"
        )
    work, output = options.work.resolve(), options.output.resolve()
    for directory in (work, output):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)
    release = Release(options.version, options.owner, commit_time(ROOT), work, output)
    _say(f"copying the tree, as version {release.version} of {release.owner}")
    copy_tree(ROOT, release.source, epoch=release.epoch)
    set_identity(release.source, version=release.version, owner=release.owner)
    release.run(sys.executable, "-m", "packer_plugin_osc_chroot.generate", ".")
    return release


def build(release: Release, *, bundled: bool) -> list[Path]:
    """Everything into the release's output; the files, sorted. Raises ReleaseError."""
    bundle = release.work / "bundle" / "dist" / SERVICE if bundled else None
    if bundle:
        _say("freezing the Python side (about a minute)")
        embedded = release.source / "shim" / "internal" / "bundle"
        release.run(
            sys.executable,
            str(release.source / "scripts" / "build_bundle.py"),
            str(release.work / "bundle"),
            str(embedded),
        )
    targets = (BUNDLED, *OTHERS)
    for target in targets:
        with_bundle = bundled and target == BUNDLED
        _say(f"{target.name}, {'its Python inside' if with_bundle else 'without a bundle'}")
        _build_shim(release, target, bundled=with_bundle)
        binary = release.binary(target)
        name = binary.name.removesuffix(target.ending)
        write_zip(release.output / f"{name}.zip", binary, epoch=release.epoch)
    _check_description(release)

    _say("the sdist and the wheel")
    release.run(
        *(sys.executable, "-m", "build", "--no-isolation", "--sdist", "--wheel"),
        *("--outdir", str(release.output), "."),
    )
    for sdist in release.output.glob("*.tar.gz"):
        normalize_tar_gz(sdist, epoch=release.epoch)

    _say("the bill of materials and the checksums")
    document = bill_of_materials(
        plugin=PLUGIN,
        version=release.version,
        owner=release.owner,
        epoch=release.epoch,
        go_modules=release.run(_go(), "version", "-m", *map(str, map(release.binary, targets))),
        lock=(ROOT / "requirements" / "run.txt").read_text(encoding="utf-8"),
        bundle=bundle,
    )
    (release.output / f"{release.prefix}_sbom.cdx.json").write_text(
        json.dumps(document, indent=2) + "\n", encoding="utf-8"
    )
    write_checksums(release.output, f"{release.prefix}_SHA256SUMS")
    if bundle:
        floor = json.loads((bundle / DESCRIPTION).read_text(encoding="utf-8"))["glibc"]
        _say(f"{BUNDLED.name} needs glibc {floor} or newer, as its files say")
    return sorted(release.output.iterdir())


def _build_shim(release: Release, target: Target, *, bundled: bool) -> None:
    tags: Mapping[bool, tuple[str, ...]] = {True: ("-tags=bundle",), False: ()}
    release.run(
        *(_go(), "build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags=-s -w"),
        *(*tags[bundled], "-o", str(release.binary(target)), "."),
        cwd=release.source / "shim",
        GOOS=target.os,
        GOARCH=target.arch,
    )


def _check_description(release: Release) -> None:
    """Packer refuses a release whose binary says something else than its name."""
    told = json.loads(release.run(str(release.binary(BUNDLED)), "describe"))
    found = (told["version"], told["api_version"])
    if found != (release.version, API_VERSION):
        raise ReleaseError(f"the plugin describes itself as {found}, not as {release.prefix}")


def _go() -> str:
    return os.environ.get("GO", "go")


def _say(text: str) -> None:
    print(f"release: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
