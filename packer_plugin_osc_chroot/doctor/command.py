"""The command line: `packer-plugin-osc-chroot doctor [--json]`."""

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence

from packer_plugin_osc_chroot.commands import HelpFormatter, exit_status
from packer_plugin_osc_chroot.doctor import machine
from packer_plugin_osc_chroot.doctor.finding import Finding, State
from packer_plugin_osc_chroot.doctor.journals import check_journals
from packer_plugin_osc_chroot.doctor.region import Region
from packer_plugin_osc_chroot.redaction import Redactor
from packer_plugin_osc_chroot.ui import printable
from packer_plugin_osc_chroot.version import VERSION

PROGRAM = "packer-plugin-osc-chroot doctor"
_DESCRIPTION = "Say what would stop a build on this machine. Nothing is made or changed."
_STATUS = exit_status(
    done="nothing found that would stop a build (there may be warnings)",
    failed='something would: the lines that begin with "problem"',
)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog=PROGRAM,
        description=_DESCRIPTION,
        epilog=_STATUS,
        formatter_class=HelpFormatter,
    )
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def main(argv: Sequence[str], *, environ: Mapping[str, str] | None = None) -> int:
    """Run the checks and show them; the exit status."""
    options = parser().parse_args(argv)
    # What a call of the API logs is for builds.
    logging.getLogger("packer_plugin_osc_chroot").setLevel(logging.CRITICAL)
    redact = Redactor()
    findings = []
    for finding, secrets in examine(os.environ if environ is None else environ):
        redact.add(secrets)
        findings.append(finding)
        if not options.json:
            print(printable(redact(finding.line())), flush=True)
    problems = sum(finding.state is State.PROBLEM for finding in findings)
    if options.json:
        checks = [
            {
                "check": each.check,
                "state": str(each.state),
                "message": redact(each.message),
                "hint": redact(each.hint),
            }
            for each in findings
        ]
        print(json.dumps({"version": VERSION, "ready": not problems, "checks": checks}, indent=2))
    elif problems:
        print(f"{problems} of {len(findings)} would stop a build", file=sys.stderr)
    return 1 if problems else 0


def examine(environ: Mapping[str, str]) -> Iterator[tuple[Finding, Sequence[str]]]:
    """Each finding as soon as there is one, with the secrets that may not be shown from there on."""
    region = Region(environ)
    yield machine.check_privileges(), ()
    yield machine.check_programs(), ()
    for finding in machine.check_filesystems():
        yield finding, ()
    yield machine.check_copy_files(), ()
    yield machine.check_cache(environ), ()
    yield check_journals(environ), ()
    for finding in region.check():
        yield finding, region.secrets
    yield machine.check_device_names(region.taken), ()
