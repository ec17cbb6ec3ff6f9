"""The options of `localcloud run` and `localcloud serve` that say what their Region is like."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from packer_plugin_osc_chroot.localcloud.catalogue import IMAGE_ID, Catalogue, load_catalogue
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.latency import PRESETS, Latency, load_latency
from packer_plugin_osc_chroot.localcloud.nodes import Style
from packer_plugin_osc_chroot.localcloud.sources import SourceError, check_source
from packer_plugin_osc_chroot.localcloud.tell import say
from packer_plugin_osc_chroot.localcloud.toml_file import FileError
from packer_plugin_osc_chroot.localcloud.user_files import check_regular


class UsageError(Exception):
    """A command line that cannot be followed. One line."""


class Stopped(Exception):
    """A signal came before the Region was up."""

    def __init__(self, number: int) -> None:
        super().__init__(f"signal {number}")
        self.number = number


def add_region_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source-omi",
        metavar="ID=FILE",
        action="append",
        default=[],
        type=_source_omi,
        help="make FILE the OMI with this id (repeatable): a raw or qcow2 disk image, a directory or"
        " tarball with a root filesystem. A raw image is used in place: it is only read, and must"
        " not change meanwhile",
    )
    parser.add_argument(
        "--catalogue",
        metavar="FILE",
        type=_catalogue,
        help="a TOML file with accounts, quotas and OMIs (an example is below)",
    )
    parser.add_argument(
        "--latency",
        metavar="zero|typical|FILE",
        type=_latency,
        default="zero",
        help="how long things take: zero (the default), typical (volume 3 s, link and unlink 2 s,"
        " snapshot 20 s, OMI 1 s, a copy of either 10 s, 50 ms on every call), or a TOML file that"
        " gives seconds for some of: call, volume, link, disk, unlink, snapshot, image, copy,"
        " update_volume, delete_volume, delete_snapshot, and in a table calls more for single"
        " actions",
    )
    parser.add_argument(
        "--trouble",
        metavar="FILE",
        type=Path,
        help="a TOML file with what is to go wrong (an example is below); it is read again whenever it"
        " changes",
    )
    parser.add_argument(
        "--disks",
        choices=get_args(Style),
        default="xvd",
        help="what linked volumes are called here: xvd (the default), /dev/xvdX as in the API; by-id,"
        " as on OUTSCALE's VMs: another letter, /dev/sdY, found through"
        " /dev/disk/by-id/scsi-0QEMU_QEMU_HARDDISK_sdX, X as in the API. Names that this machine has"
        " are never used",
    )
    parser.add_argument(
        "--https",
        action="store_true",
        help="serve the API over HTTPS, with a certificate of its own: REQUESTS_CA_BUNDLE,"
        " SSL_CERT_FILE and CURL_CA_BUNDLE name a file that has it and this machine's authorities",
    )
    parser.add_argument(
        "--state",
        metavar="DIR",
        type=Path,
        help="keep the Region in DIR: what is in it is there again when DIR is next given (one that"
        " has something in it keeps its source OMIs and keys)",
    )
    parser.add_argument(
        "--record",
        metavar="FILE",
        type=Path,
        help="write every call to FILE as a line of JSON",
    )


def _source_omi(text: str) -> tuple[str, Path]:
    image_id, _, name = text.partition("=")
    file = Path(name)
    if not IMAGE_ID.fullmatch(image_id) or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form ami-12345678=FILE")
    try:
        check_source(file)
    except SourceError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return image_id, file


def _catalogue(name: str) -> Catalogue:
    try:
        return load_catalogue(Path(name))
    except FileError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _latency(text: str) -> Latency:
    if text in PRESETS:
        return PRESETS[text]
    try:
        return load_latency(Path(text))
    except FileError as error:
        known = ", ".join(sorted(PRESETS))
        raise argparse.ArgumentTypeError(f"{error} (and it is none of {known})") from None


def check_region_options(options: argparse.Namespace) -> None:
    """What can be known to fail before anything is started. Raises UsageError."""
    sources = [image_id for image_id, _ in options.source_omi]
    for image_id in sources:
        if sources.count(image_id) > 1:
            raise UsageError(f"--source-omi names {image_id} more than once")
    for entry in options.catalogue.omis if options.catalogue else ():
        if entry.id in sources:
            raise UsageError(f"--source-omi and --catalogue both name {entry.id}")
    check_writable("--record", options.record)
    if os.geteuid() != 0:
        raise UsageError(
            "linked volumes appear as loop devices, which needs root: run it with sudo"
        )
    if not os.path.exists("/dev/loop-control"):
        raise UsageError("this machine has no loop devices: /dev/loop-control is missing")


def check_writable(option: str, file: Path | None) -> None:
    """Whether `file` can be made, or replaced as a regular file. Raises UsageError."""
    if file is None:
        return
    try:
        check_regular(file)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise UsageError(f"{option}: {file}: {error.strerror}") from None
    if not os.access(file.parent, os.W_OK):
        raise UsageError(f"{option}: {file}: {file.parent} cannot be written to")


def make_cloud(options: argparse.Namespace, *, check: Callable[[], None]) -> LocalCloud:
    """`check` raises Stopped where the Region is not wanted any more."""
    return LocalCloud(
        latency=options.latency,
        source_omis=dict(options.source_omi) or None,
        catalogue=options.catalogue,
        trouble=options.trouble,
        tell=say,
        record=options.record,
        state=options.state,
        https=options.https,
        disks=options.disks,
        own_disk=True,
        check=check,
    )
