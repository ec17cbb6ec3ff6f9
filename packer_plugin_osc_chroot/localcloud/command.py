"""The command line: `packer-plugin-osc-chroot localcloud …`."""

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.images import TINY_IMAGE_ID
from packer_plugin_osc_chroot.localcloud.latency import PRESETS

PROGRAM = "packer-plugin-osc-chroot localcloud"

_DESCRIPTION = "A simulated OUTSCALE Region on this machine: no account, no cost."
_RUN_DESCRIPTION = """\
Start a Region, run COMMAND against it, say what exists in it afterwards, and remove it.

COMMAND sees the Region through OSC_ACCESS_KEY, OSC_SECRET_KEY, OSC_REGION, OSC_ENDPOINT_API and
OSC_CHROOT_METADATA_URL; other OSC_… and OUTSCALE_… variables are taken out of its environment, so
that it cannot reach a real Region by mistake. This machine plays the VM: linked volumes appear here
as /dev/xvdX, which needs root and loop devices.
"""
_RUN_EPILOG = f"""\
Without --source-omi there is one tiny OMI, {TINY_IMAGE_ID}, that holds no programs (if mkfs.ext4 is
installed).

Ctrl-C goes to COMMAND as usual; the Region stays up until COMMAND has ended. SIGTERM and SIGHUP are
passed on to COMMAND, SIGQUIT as SIGTERM; a second one kills it. Where what COMMAND left is still
being undone when it has ended, that is waited for: any of these signals ends the waiting. Processes
that COMMAND left in the Region's disks are ended.

Exit status: that of COMMAND (128 + N when signal N ended it); 1 when COMMAND succeeded but a
defect was recorded (what harms data on a real Region: unlinking a mounted volume, say), or it made
no OMI to export; 2 for a wrong command line; 127 when COMMAND could not be started.

example:
  {PROGRAM} run --source-omi ami-12345678=debian.raw --export new.raw \\
      -- packer build template.pkr.hcl
"""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

# How long what COMMAND left may go without a call before nobody is taken to be undoing it, and how
# long that is waited for in all.
_QUIET_SECONDS = 5.0
_UNDOING_SECONDS = 120.0


class UsageError(Exception):
    """A command line that cannot be followed. One line."""


def main(argv: list[str]) -> int:
    """Run the command line `argv` (less the program's name); the exit status."""
    options_argv, command = _split(argv)
    options = _parser().parse_args(options_argv)
    try:
        _check(options, command)
    except UsageError as error:
        print(f"{PROGRAM} run: {error}", file=sys.stderr)
        return 2
    try:
        return _run(options, command)
    except OSError as error:
        _say(f"{error.filename or 'this machine'}: {error.strerror or error}")
        return 1


def _split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Options before the first `--`, COMMAND after it."""
    if "--" not in argv:
        return list(argv), []
    at = list(argv).index("--")
    return list(argv[:at]), list(argv[at + 1 :])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=_DESCRIPTION)
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    run = actions.add_parser(
        "run",
        help="run a command against a Region of its own",
        usage="%(prog)s [options] -- COMMAND...",
        description=_RUN_DESCRIPTION,
        epilog=_RUN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument(
        "--source-omi",
        metavar="ID=FILE",
        action="append",
        default=[],
        type=_source_omi,
        help="make the raw disk image FILE the OMI with this id (repeatable; FILE is only read, and"
        " must not change meanwhile)",
    )
    run.add_argument(
        "--latency",
        choices=sorted(PRESETS),
        default="zero",
        help="how long things take: zero (the default), or typical (volume 3 s, link and unlink 2 s,"
        " snapshot 20 s, OMI 1 s, 50 ms on every call)",
    )
    run.add_argument(
        "--record",
        metavar="FILE",
        type=Path,
        help="write every call to FILE as a line of JSON",
    )
    run.add_argument(
        "--export",
        metavar="FILE",
        type=Path,
        help="write the root volume of the newest OMI that COMMAND made to FILE, as a raw image",
    )
    return parser


def _source_omi(text: str) -> tuple[str, Path]:
    image_id, _, name = text.partition("=")
    file = Path(name)
    if not re.fullmatch(r"ami-[0-9A-Za-z]+", image_id) or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form ami-12345678=FILE")
    try:
        with open(file, "rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{name}: {error.strerror}") from None
    if magic == b"QFI\xfb":
        raise argparse.ArgumentTypeError(
            f"{name} is a qcow2 image, a raw one is needed: qemu-img convert -O raw makes one"
        )
    if not magic:
        raise argparse.ArgumentTypeError(f"{name} is empty")
    return image_id, file


def _check(options: argparse.Namespace, command: list[str]) -> None:
    """All that can be known to fail before COMMAND runs for minutes. Raises UsageError."""
    if not command:
        raise UsageError("no COMMAND: put it after --")
    sources = [image_id for image_id, _ in options.source_omi]
    for image_id in sources:
        if sources.count(image_id) > 1:
            raise UsageError(f"--source-omi names {image_id} more than once")
    for name, file in (("--record", options.record), ("--export", options.export)):
        if file is not None and (file.is_dir() or not os.access(file.parent, os.W_OK)):
            raise UsageError(f"{name}: {file} cannot be written")
    if os.geteuid() != 0:
        raise UsageError(
            "linked volumes appear as loop devices, which needs root: run it with sudo"
        )
    if not os.path.exists("/dev/loop-control"):
        raise UsageError("this machine has no loop devices: /dev/loop-control is missing")


def _run(options: argparse.Namespace, command: list[str]) -> int:
    sources = dict(options.source_omi) or None
    cloud = LocalCloud(latency=options.latency, source_omis=sources, record=options.record)
    child = _Child()
    started = time.monotonic()
    with child.signals(), cloud:
        for process in cloud.ended_at_start():
            _say(f"ended what a killed localcloud had left: process {process}")
        status = child.run(command, cloud.child_environment(os.environ))
        _let_undoing_finish(cloud, stop=child.asked_to_stop)
        _say(f"after {time.monotonic() - started:.1f} s and {len(cloud.record)} calls:")
        _report_resources(cloud)
        # Where COMMAND failed there is no OMI to be missed.
        wanted = options.export is not None and status == 0
        exported = not wanted or _export(cloud, options.export)
    for defect in cloud.defects:
        _say(f"  defect: {defect}")
    if status == 0 and (cloud.defects or not exported):
        return 1
    return status


def _let_undoing_finish(cloud: LocalCloud, *, stop: Callable[[], bool]) -> None:
    """A killed packer ends before the plugin has undone its build: the Region outlives it.

    As long as something is left over and calls still come in, but not for ever, and not against
    the user's will.
    """
    begun = quiet_since = time.monotonic()
    calls = len(cloud.record)
    told = False
    while not stop() and cloud.leftovers():
        now = time.monotonic()
        if len(cloud.record) != calls:
            calls, quiet_since = len(cloud.record), now
        if now - quiet_since > _QUIET_SECONDS or now - begun > _UNDOING_SECONDS:
            return
        if not told and now - begun > 1.0:
            told = True
            _say("COMMAND has ended; waiting for what it left to be undone")
        time.sleep(0.1)


def _report_resources(cloud: LocalCloud) -> None:
    for image in cloud.images():
        _say(f"  OMI {image.image_id} ({image.state}): {image.name}")
    for snapshot in cloud.snapshots():
        _say(f"  snapshot {snapshot.snapshot_id} ({snapshot.state}), {snapshot.size} GiB")
    leftovers = cloud.leftovers()
    for leftover in leftovers:
        _say(f"  left over: {leftover}")
    if not leftovers:
        _say("  nothing was left over")


def _export(cloud: LocalCloud, file: Path) -> bool:
    images = [image for image in cloud.images() if image.state == "available"]
    if not images:
        _say("  nothing to export: no OMI was made")
        return False
    newest = max(images, key=lambda image: image.created)
    cloud.export(newest.image_id, file)
    _say(f"  exported the root volume of {newest.image_id} to {file}")
    return True


def _say(text: str) -> None:
    # Not stdout: that is COMMAND's. A terminal that hung up must not change how this ends.
    with suppress(OSError):
        print(f"localcloud: {text}", file=sys.stderr, flush=True)


class _Child:
    """COMMAND, and what signals do before, while and after it runs.

    The handler only takes notes and passes signals on. It never raises: whatever is being set up or
    tidied comes to its end.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._early_signals: list[int] = []
        self._ended = False
        self._asked_to_stop = False
        self._asked_to_end = False

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Handle them; from the end on they are ignored, as only the exit status is still to come.

        Python's own end would give the default action back to a handler, but not to this.
        """
        for number in _SIGNALS:
            signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._ended:
            # Ends the waiting for what COMMAND left. Tidying up is quick, and is not left halfway.
            self._asked_to_stop = True
        elif self._process is None:
            self._early_signals.append(number)
        elif number != signal.SIGINT:  # From the terminal: COMMAND has got that too.
            self._pass_on(self._process, number)

    def _pass_on(self, process: "subprocess.Popen[bytes]", number: int) -> None:
        if number == signal.SIGINT:
            process.send_signal(number)
            return
        if number == signal.SIGQUIT:
            number = signal.SIGTERM
        process.send_signal(signal.SIGKILL if self._asked_to_end else number)
        self._asked_to_end = True

    def asked_to_stop(self) -> bool:
        """Whether a signal came after COMMAND had ended."""
        return self._asked_to_stop

    def run(self, command: list[str], environment: dict[str, str]) -> int:
        """Run COMMAND to its end: its exit status as a shell would have it.

        A signal that has come already keeps it from being started.
        """
        try:
            if self._early_signals:
                return 128 + self._early_signals[0]
            self._process = subprocess.Popen(command, env=environment)
            # They came while it was being started, when it may not have got them itself.
            for number in self._early_signals:
                self._pass_on(self._process, number)
            status = self._process.wait()
        except OSError as error:
            _say(f"{command[0]}: {error.strerror}")
            if isinstance(error, FileNotFoundError) and os.environ.get("SUDO_USER"):
                _say(
                    "sudo has a PATH of its own: give the command's whole path, or run this as root"
                )
            status = 127
        finally:
            self._ended = True
        return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
