"""`packer-plugin-osc-chroot reclaim`: what dead builds left on this VM is undone by hand."""

import argparse
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from packer_plugin_osc_chroot.cancel import UNDO_SECONDS, CancelToken, following
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.cloud.credentials import find_credentials
from packer_plugin_osc_chroot.cloud.metadata import Identity, read_identity
from packer_plugin_osc_chroot.commands import HelpFormatter, exit_status
from packer_plugin_osc_chroot.errors import BuildError, CloudError
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.journal.dead import DeadJournal, client_tokens, dead_journals
from packer_plugin_osc_chroot.journal.directory import state_directory
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.plan import plan_wrapper
from packer_plugin_osc_chroot.reclaim.next_build import title
from packer_plugin_osc_chroot.reclaim.orphans import Orphan, find_orphans, remove_orphan
from packer_plugin_osc_chroot.reclaim.sockets import remove_dead_sockets
from packer_plugin_osc_chroot.reclaim.undo import undo_journal
from packer_plugin_osc_chroot.template.engine import Scope
from packer_plugin_osc_chroot.ui import harmless

_JSON = """\
With --json there is one object, whatever happened:
  builds    each with journal, omi_name, began (ISO 8601), kept_by_on_error, found (what of it
            stands, in the order of its removal) and left (why what is left could not be undone)
  orphans   each with kind (volume, snapshot), id, vm_id, made and removed
  errors    what kept reclaim from looking at all of it, one line each
  complete  false where something is left that should have gone
"""
# A build's volume is without a link for seconds, or while its snapshot is taken.
_AGE_HOURS = 6.0


class ScreenUi:
    """What is said goes to a terminal."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def say(self, text: str) -> None:
        print(harmless(text), file=self._stream, flush=True)

    def message(self, text: str) -> None:
        self.say(f"    {text}")

    def error(self, text: str) -> None:
        print(harmless(text), file=sys.stderr, flush=True)

    def machine(self, category: str, *args: str) -> None:
        """Packer's form, which nobody reads here."""

    def ask(self, query: str) -> str:
        raise BuildError(f"there is nobody to ask: {query}")


@dataclass
class Report:
    """What was found and done, as --json prints it, whatever happened: see `_JSON`."""

    builds: list[dict[str, Any]] = field(default_factory=list)
    orphans: list[dict[str, Any]] = field(default_factory=list)
    # Why not all of it could be looked at or done, beside what a build's own entry says.
    errors: list[str] = field(default_factory=list)
    # Whether something is left that should have gone.
    incomplete: bool = False

    def failed(self, text: str, ui: ScreenUi) -> None:
        ui.error(text)
        self.errors.append(text)
        self.incomplete = True

    def json(self) -> str:
        return json.dumps(
            {
                "builds": self.builds,
                "orphans": self.orphans,
                "errors": self.errors,
                "complete": not self.incomplete,
            }
        )


@dataclass(frozen=True)
class _Reclaim:
    """One run of the command."""

    environ: Mapping[str, str]
    identity: Identity
    host: Host
    ui: ScreenUi
    token: CancelToken
    report: Report
    dry_run: bool
    _clouds: dict[tuple[str, str], Cloud] = field(default_factory=dict)

    def cloud(self, *, region: str = "", endpoint: str = "") -> Cloud:
        """One for each place: what it has learnt of the keys holds for all journals of it."""
        config = Config(region=region, custom_endpoint_oapi=endpoint)
        credentials = find_credentials(config, self.environ)
        region = credentials.region or self.identity.region
        place = (region, credentials.endpoint_url(region))
        if place not in self._clouds:
            self._clouds[place] = Cloud(credentials, region=region, tell=self.ui.message)
        return self._clouds[place]

    def build(self, journal: DeadJournal) -> None:
        """Undo one dead build, or say why not."""
        story = journal.story
        entry: dict[str, Any] = {
            "journal": str(journal.path),
            "omi_name": story.about.omi_name,
            "began": datetime.fromtimestamp(story.about.at, UTC).isoformat(),
            "kept_by_on_error": story.end == "kept",
            "found": story.describe(),
            "left": [],
        }
        self.report.builds.append(entry)
        kept = " (kept by -on-error)" if story.end == "kept" else ""
        self.ui.say(f"{title(story)[:1].upper()}{title(story)[1:]}{kept}:")
        for what in story.describe() or ["nothing in the account"]:
            self.ui.message(what)
        cloud = self.cloud(region=story.about.region, endpoint=story.about.endpoint)
        try:
            reason = self._not_ours(cloud, journal)
        except CloudError as error:
            reason = str(error)
        if reason:
            entry["left"] = [reason]
            self.report.incomplete = True
            self.ui.error(f"Left alone: {reason}")
        elif not self.dry_run:
            failures = undo_journal(journal, cloud, host=self.host, ui=self.ui, token=self.token)
            entry["left"] = [str(failure) for failure in failures]
            if failures:
                self.report.incomplete = True
            else:
                self.ui.say("Nothing of it is left.")

    def _not_ours(self, cloud: Cloud, journal: DeadJournal) -> str:
        """Why these credentials, on this VM, must not undo it; empty where they may.

        To credentials of another account everything looks as if it were gone.
        """
        story = journal.story
        vm_id = story.about.vm_id
        vm = cloud.one("ReadVms", "Vms", token=self.token, VmIds=[vm_id])
        is_here = vm_id == self.identity.vm_id
        if is_here and vm is not None:
            return ""
        if vm is not None and vm.get("State") != "terminated":
            return (
                f"it ran on VM {vm_id}, which is another one: run reclaim there (where this VM only has"
                f" a copy of that one's disk, remove {journal.path})"
            )
        accounts = cloud.read("ReadAccounts", token=self.token).get("Accounts") or [{}]
        if not is_here and str(accounts[0].get("AccountId")) == story.about.account_id:
            return ""
        return f"these credentials are not of account {story.about.account_id or 'of the build'}"

    def orphans(self, *, remove: bool, hours: float, spare: set[str]) -> None:
        """Name what carries our mark and no journal names, and remove it where that is wanted."""
        cloud = self.cloud()
        found = find_orphans(
            cloud, vm_id=self.identity.vm_id, spare=spare, hours=hours, token=self.token
        )
        if found:
            self.ui.say("Made by this plugin, and not part of a build or an OMI any more:")
        for orphan in found:
            self.ui.message(orphan.describe())
            gone = remove and not self.dry_run and self._remove(cloud, orphan)
            self.report.orphans.append(
                {"kind": orphan.kind, "id": orphan.resource_id, "vm_id": orphan.vm_id}
                | {"made": orphan.made_at, "removed": gone}
            )
        if found and not remove:
            self.ui.say("reclaim --orphans removes them.")

    def _remove(self, cloud: Cloud, orphan: Orphan) -> bool:
        token = CancelToken(deadline=UNDO_SECONDS, reason="removing it took too long")
        try:
            with following(self.token, token):
                remove_orphan(cloud, orphan, token=token)
        except BuildError as error:
            text = f"{orphan.kind} {orphan.resource_id} is left behind: {error}"
            self.report.failed(text, self.ui)
            return False
        return True


def _hours(text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = -1.0
    # Nothing is younger than "nan" either.
    if not hours >= 0:
        raise argparse.ArgumentTypeError(f"{text}: expected a number of hours, 0 or more")
    return hours


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="packer-plugin-osc-chroot reclaim",
        description="Undo what builds left that were killed on this VM, or kept by -on-error=abort."
        " Credentials are taken from the environment or ~/.osc/config.json.",
        epilog=_JSON
        + "\n"
        + exit_status(
            done="nothing is left that should have gone",
            failed="something is, or could not be looked for",
        ),
        formatter_class=HelpFormatter,
    )
    made.add_argument("--dry-run", action="store_true", help="only say what there is")
    made.add_argument("--json", action="store_true", help="report as one JSON object")
    made.add_argument(
        "--orphans",
        action="store_true",
        help="also remove volumes and snapshots made by this plugin on this VM, or on VMs that are"
        " gone, that no journal knows and no OMI uses",
    )
    made.add_argument(
        "--hours",
        type=_hours,
        default=_AGE_HOURS,
        metavar="N",
        help="how old such a volume or snapshot must be (default: %(default)g)",
    )
    made.add_argument(
        "--command-wrapper",
        default="",
        metavar="TEMPLATE",
        help="as command_wrapper of the template, for users other than root: 'sudo {{.Command}}'",
    )
    made.add_argument(
        "--vm-id",
        default="",
        metavar="ID",
        help="this VM's id, where its metadata service cannot be asked",
    )
    return made


def main(argv: Sequence[str], *, environ: Mapping[str, str] | None = None) -> int:
    """Returns the exit status: 1 where something is left that should have gone."""
    options = parser().parse_args(argv)
    environ = os.environ if environ is None else environ
    # With --json standard output has the report alone.
    ui = ScreenUi(sys.stderr if options.json else sys.stdout)
    token = CancelToken(reason="interrupted")
    report = Report()
    try:
        with cancelled_by_interrupt(token):
            _run(options, environ=environ, ui=ui, token=token, report=report)
    except BuildError as error:
        report.failed(f"reclaim: {error}", ui)
    if options.json:
        print(report.json())
    elif not (report.builds or report.orphans or report.incomplete):
        ui.say("There is nothing to reclaim.")
    return 1 if report.incomplete else 0


@contextmanager
def cancelled_by_interrupt(token: CancelToken) -> Iterator[None]:
    """Ctrl-C cancels the token, from another thread: what the handler interrupts may have its lock."""
    interrupts: queue.SimpleQueue[int] = queue.SimpleQueue()

    def wait() -> None:
        interrupts.get()
        token.cancel()

    threading.Thread(target=wait, daemon=True, name="interrupt").start()
    before = signal.signal(signal.SIGINT, lambda number, frame: interrupts.put(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _run(
    options: argparse.Namespace,
    *,
    environ: Mapping[str, str],
    ui: ScreenUi,
    token: CancelToken,
    report: Report,
) -> None:
    directory = state_directory(environ)
    config = Config(command_wrapper=options.command_wrapper or "{{.Command}}")
    reclaim = _Reclaim(
        environ=environ,
        identity=read_identity(Config(vm_id=options.vm_id), environ, token=token),
        host=Host(plan_wrapper(config, Scope(started_at=datetime.now(UTC)))),
        ui=ui,
        token=token,
        report=report,
        dry_run=options.dry_run,
    )
    if not options.dry_run:
        remove_dead_sockets()
    try:
        # Read before anything is undone: a volume that could not be is no orphan either.
        spare = client_tokens(directory)
        for journal in dead_journals(directory, tell=lambda text: report.failed(text, ui)):
            token.check()
            reclaim.build(journal)
    except OSError as error:
        raise BuildError(f"journals in {directory}: {error.strerror}") from error
    try:
        reclaim.orphans(remove=options.orphans, hours=options.hours, spare=spare)
    except CloudError as error:
        if options.orphans:
            raise
        # These credentials may not list; what was asked for is done.
        ui.error(f"Not looked for orphans: {error.message}")
        report.errors.append(f"not looked for orphans: {error.message}")
