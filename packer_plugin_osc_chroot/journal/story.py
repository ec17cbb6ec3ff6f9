"""What a journal says: what its build made that may still stand."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packer_plugin_osc_chroot.cloud.shape import misshapen
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.host.mountinfo import mounts_below
from packer_plugin_osc_chroot.host.procfs import boot_id
from packer_plugin_osc_chroot.ui import printable

# The form of what is written. What a reader of this form would misunderstand gets the next number.
FORMAT = 1
# The file's mode where a user wanted kept what it names; it is 600 else.
KEPT_MODE = 0o700
# What reading it raises where it is not what its format says.
_DAMAGES = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
# Of the year 9999: what can be shown as a date.
_LAST_SECOND = 253402300800


@dataclass(frozen=True)
class About:
    """The build: where it ran, what it was to make, when it began (seconds of the epoch)."""

    vm_id: str
    region: str
    endpoint: str
    account_id: str
    omi_name: str
    boot_id: str
    pid: int
    at: int
    # What its commands carry; empty where it is of a version without.
    mark: str = ""


@dataclass
class Effect:
    """One call that makes something. `resource_id` is empty where no answer told it."""

    action: str
    traces: Mapping[str, str]
    resource_id: str = ""


@dataclass(frozen=True)
class DiskTrace:
    """The disk of the link; `size` in GiB."""

    path: Path
    instance: str
    size: int


@dataclass(frozen=True)
class MountTrace:
    """The root's mount; `number` is its device's, as mountinfo has it."""

    point: str
    device: str
    number: str
    made: Sequence[str]


@dataclass(frozen=True)
class Story:
    """`effects` are those that may stand, oldest first. `end` is "" for a build that was killed."""

    about: About
    effects: Sequence[Effect]
    disk: DiskTrace | None = None
    mount: MountTrace | None = None
    processes: Sequence[tuple[int, int]] = ()
    # OMIs that were deregistered for a successor which was not kept, as the API showed them.
    former: Sequence[Mapping[str, Any]] = ()
    end: str = ""

    def of(self, action: str) -> list[Effect]:
        """The effects of one action, newest first."""
        return [effect for effect in reversed(self.effects) if effect.action == action]

    def describe(self) -> list[str]:
        """What may stand, or be missing in the account, for people; in the order of its removal."""
        found = [(each.action, _described(each)) for each in reversed(self.effects)]
        if (mount := self.mounted()) is not None:
            made_on = ("LinkVolume", "CreateVolume")
            at = next((i for i, (action, _) in enumerate(found) if action in made_on), len(found))
            found.insert(at, ("", f"mount of {mount.device} at {mount.point}"))
        gone = [f"OMI {image['ImageId']}, deregistered for a successor" for image in self.former]
        return [printable(what) for what in (*(what for _, what in found), *gone)]

    @property
    def is_of_this_boot(self) -> bool:
        return self.about.boot_id == boot_id()

    def mounted(self) -> MountTrace | None:
        """The root's mount where it is still there. After a reboot nothing is mounted that is ours."""
        if self.mount is None or not self.is_of_this_boot:
            return None
        there = [x for x in mounts_below(self.mount.point) if x.mount_point == self.mount.point]
        return self.mount if any(x.device_number == self.mount.number for x in there) else None


def read_story(text: bytes) -> Story | None:
    """None where not even the first line is whole: then nothing was made yet.

    Raises BuildError for one that this version does not understand.
    """
    try:
        return _read_story(text)
    except _DAMAGES as error:
        raise BuildError("is damaged", hint="Remove it once what it names is gone") from error


def _read_story(text: bytes) -> Story | None:
    about: About | None = None
    effects: dict[int, Effect] = {}
    found: dict[str, Any] = {}
    processes: list[tuple[int, int]] = []
    former: dict[str, Mapping[str, Any]] = {}
    kept: set[str] = set()
    committed = False
    for event in _events(text):
        match event.get("event"):
            case "begin":
                # Without a number it is of the time before there was one, and reads the same.
                if (form := int(event.get("format", 0))) > FORMAT:
                    raise BuildError(
                        f"is of format {form}, and this version of the plugin knows {FORMAT}",
                        hint="A newer version of the plugin undoes it",
                    )
                about = _about(event)
            case "send":
                traces = {key: str(value) for key, value in event.items() if key[:1].isupper()}
                action, known = str(event["action"]), str(event.get("id", ""))
                if action == "LinkVolume" and "VolumeId" not in traces:
                    raise ValueError("a link of nothing")
                effects[int(event["n"])] = Effect(action, traces, known)
            case "made":
                # Its first line may be missing: the disk was full.
                if (effect := effects.get(int(event["n"]))) is not None:
                    effect.resource_id = str(event["id"])
            case "refused":
                effects.pop(int(event["n"]), None)
            case "gone":
                _strike(effects, str(event["action"]), str(event["id"]))
            case "disk":
                found["disk"] = DiskTrace(
                    Path(event["path"]), str(event["instance"]), int(event["size"])
                )
            case "mount":
                found["mount"] = MountTrace(
                    str(event["point"]),
                    str(event["device"]),
                    str(event["number"]),
                    tuple(map(str, event["made"])),
                )
            case "former":
                image = dict(event["image"])
                if "ImageName" not in image or misshapen({"Images": [image]}):
                    raise ValueError("an OMI that could not be registered again")
                former[str(image["ImageId"])] = image
            case "returned":
                former.pop(str(event["id"]), None)
            case "process":
                processes.append((int(event["pid"]), int(event["started"])))
            case "keep":
                kept.update(map(str, event["ids"]))
                committed = committed or bool(event.get("commit"))
            case "end":
                found["end"] = str(event["how"])
    if about is None:
        return None
    stand = [effect for effect in effects.values() if effect.resource_id not in kept]
    return Story(
        about,
        stand,
        processes=processes,
        former=[] if committed else [*former.values()],
        **found,
    )


def _about(event: Mapping[str, Any]) -> About:
    if not 0 <= (at := int(event["at"])) < _LAST_SECOND:
        raise ValueError("at")
    names = ("vm_id", "region", "endpoint", "account_id", "omi_name", "boot_id", "mark")
    return About(
        **{name: str(event.get(name, "")) for name in names},
        pid=int(event.get("pid", 0)),
        at=at,
    )


def _events(text: bytes) -> Iterator[dict[str, Any]]:
    """Its whole lines. A torn one can only be the last: its effect had not begun, or has no id."""
    for line in text.split(b"\n")[:-1]:
        try:
            event = json.loads(line)
        except ValueError:
            # A line that was cut short, with others after it.
            continue
        if isinstance(event, dict):
            yield event


def _strike(effects: dict[int, Effect], action: str, resource_id: str) -> None:
    made_by = "Link" if action.startswith("Unlink") else "Create"
    for number, effect in list(effects.items()):
        key = effect.traces.get("VolumeId") if made_by == "Link" else effect.resource_id
        if effect.action.startswith(made_by) and key == resource_id:
            del effects[number]


def _described(effect: Effect) -> str:
    traces = effect.traces
    match effect.action:
        case "LinkVolume":
            return f"link of volume {traces.get('VolumeId')} to VM {traces.get('VmId')}"
        case "CreateImage":
            return f"OMI {effect.resource_id or 'named ' + repr(traces.get('ImageName'))}"
    kind = effect.action.removeprefix("Create").lower()
    return f"{kind} {effect.resource_id or 'with ClientToken ' + traces.get('ClientToken', '')}"
