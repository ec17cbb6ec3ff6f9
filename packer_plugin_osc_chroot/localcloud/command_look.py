"""`localcloud status`, `export` and `clean`: at Regions that run, and at those kept in directories."""

import argparse
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from packer_plugin_osc_chroot.commands import HelpFormatter, exit_status
from packer_plugin_osc_chroot.localcloud import saved
from packer_plugin_osc_chroot.localcloud.command_serve import export_lines
from packer_plugin_osc_chroot.localcloud.control import NotRunning, Running, running
from packer_plugin_osc_chroot.localcloud.files import replace_sparse
from packer_plugin_osc_chroot.localcloud.inventory import Inventory, take_inventory
from packer_plugin_osc_chroot.localcloud.region_options import UsageError, check_writable
from packer_plugin_osc_chroot.localcloud.remains import clean
from packer_plugin_osc_chroot.localcloud.tell import say

_STATE_HELP = (
    "the Region kept in DIR, whether it runs or not, or that runs in DIR, which status shows (default:"
    " the one that runs)"
)


def add_status(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = actions.add_parser(
        "status",
        help="what exists in a Region, and what is left over",
        description="List the OMIs, snapshots and volumes of every Region that runs on this machine,"
        " or of the one kept in a directory, and say what is left over: what belongs to no OMI.",
        epilog=exit_status(),
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--state", metavar="DIR", type=Path, help=_STATE_HELP)
    alone = parser.add_mutually_exclusive_group()
    alone.add_argument(
        "--exports",
        action="store_true",
        help="print what a shell has to set to use the Region, and nothing else",
    )
    alone.add_argument(
        "--json",
        action="store_true",
        help="print one JSON object: regions, a list of what each has",
    )
    parser.set_defaults(follow=status)


def add_export(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = actions.add_parser(
        "export",
        help="write an OMI's root volume as a raw disk image",
        description="Write the root volume of OMI to FILE as a raw disk image, which QEMU and"
        " losetup take as it is. FILE is replaced, in one step.",
        epilog=exit_status(),
        formatter_class=HelpFormatter,
    )
    parser.add_argument("omi", metavar="OMI", help="its id (status lists them)")
    parser.add_argument("file", metavar="FILE", type=Path)
    parser.add_argument("--state", metavar="DIR", type=Path, help=_STATE_HELP)
    parser.set_defaults(follow=export)


def add_clean(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = actions.add_parser(
        "clean",
        help="remove what localclouds left that were killed",
        description="Remove the mounts, loop devices, device nodes, links and files of localclouds"
        " that were killed, and end processes that hold on to them. Those that run, and what is kept in"
        " directories (--state), stay as they are. Starting a localcloud does the same.",
        epilog=exit_status(),
        formatter_class=HelpFormatter,
    )
    parser.set_defaults(follow=clean_up)


def status(options: argparse.Namespace, command: Sequence[str]) -> int:
    if options.exports:
        environment: dict[str, str] = _one(options.state).ask("environment")
        print("\n".join(export_lines(environment)))
        return 0
    shown: list[tuple[str, dict[str, object], Inventory]] = []
    for each in _found(options.state):
        about = each.ask("about")
        title = f"Region at {about['url']}, process {about['pid']}, in {about['directory']}:"
        known = {key: about[key] for key in ("url", "pid", "directory")}
        shown.append((title, known, Inventory(**each.ask("inventory"))))
    if options.state is not None and not shown:
        title = f"Region in {options.state}, not running:"
        known = {"url": None, "pid": None, "directory": os.path.realpath(options.state)}
        shown.append((title, known, take_inventory(_saved(options.state))))
    if options.json:
        regions = [{**known, **asdict(inventory)} for _, known, inventory in shown]
        print(json.dumps({"regions": regions}, indent=2))
        return 0
    if not shown:
        print("no localcloud runs here")
    for title, _, inventory in shown:
        print(title)
        for line in inventory.lines():
            print(f"  {line}")
    return 0


def export(options: argparse.Namespace, command: Sequence[str]) -> int:
    check_writable("FILE", options.file)
    if options.state is not None and not _found(options.state):
        source = _saved_root(options.state, options.omi)
    else:
        try:
            source = Path(_one(options.state).ask(f"root-image/{options.omi}")["file"])
        except LookupError as error:
            raise UsageError(str(error)) from None
    replace_sparse(source, options.file)
    say(f"wrote the root volume of {options.omi} to {options.file}")
    return 0


def clean_up(options: argparse.Namespace, command: Sequence[str]) -> int:
    removed = clean()
    for line in removed:
        say(f"removed {line}")
    if not removed:
        say("nothing was left over")
    return 0


def _found(state: Path | None) -> list[Running]:
    """Those that run; with `state` the one that has this directory open, if any."""
    wanted = None if state is None else os.path.realpath(state)
    found = []
    for each in running():
        # One that is being started, or ends, does not answer: it is none to look at.
        with suppress(NotRunning):
            directory = each.ask("about")["directory"]
            if wanted in (None, directory):
                found.append(each)
    return found


def _one(state: Path | None) -> Running:
    found = _found(state)
    if not found:
        where = f" with --state {state}" if state is not None else ""
        raise UsageError(f"no localcloud runs here{where}: `localcloud serve` starts one")
    if len(found) > 1:
        raise UsageError(
            f"{len(found)} localclouds run here: say which with --state DIR (`localcloud status` shows"
            " where each is)"
        )
    return found[0]


def _saved(state: Path) -> saved.Saved:
    found = saved.read(state)
    if found is None:
        raise UsageError(f"--state {state}: there is no Region in it")
    return found


def _saved_root(state: Path, image_id: str) -> Path:
    found = _saved(state)
    if image_id not in found.images:
        raise UsageError(f"the Region in {state} has no OMI {image_id}")
    snapshot_id = found.images[image_id].root_snapshot_id()
    foreign = found.foreign.get(snapshot_id)
    file = Path(foreign.path) if foreign else state / "snapshots" / f"{snapshot_id}.raw"
    if not file.exists():
        raise UsageError(f"the data of OMI {image_id} is not there: {file} is missing")
    return file
