"""How long things take in the simulated Region, in seconds."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from packer_plugin_osc_chroot.localcloud import toml_file
from packer_plugin_osc_chroot.localcloud.openapi import load_document


@dataclass(frozen=True)
class Latency:
    """Each transition's time.

    `call` is added to every call, and `calls` more to those of the actions that it names. `disk` is
    what passes between a link's being attached and the disk's appearing on the machine. `copy` is
    that of a snapshot or an OMI that is copied.
    """

    call: float = 0.0
    volume: float = 0.0
    link: float = 0.0
    disk: float = 0.0
    unlink: float = 0.0
    snapshot: float = 0.0
    image: float = 0.0
    copy: float = 0.0
    update_volume: float = 0.0
    delete_volume: float = 0.0
    delete_snapshot: float = 0.0
    calls: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        times = {each.name: getattr(self, each.name) for each in fields(self)}
        times |= {f"calls.{action}": time for action, time in times.pop("calls").items()}
        for name, time in times.items():
            toml_file.check_seconds(name, time)

    def of_call(self, action: str) -> float:
        return self.call + self.calls.get(action, 0.0)


PRESETS = {
    "zero": Latency(),
    "typical": Latency(
        call=0.05, volume=3.0, link=2.0, unlink=2.0, snapshot=20.0, image=1.0, copy=10.0
    ),
}


def load_latency(file: Path) -> Latency:
    """From a TOML file with some of these keys; what it leaves out takes no time.

    Raises toml_file.FileError, also for an action that the API does not have.
    """
    found = toml_file.load(file, Latency)
    unknown = set(found.calls) - load_document().actions if found.calls else ()
    for action in unknown:
        raise toml_file.FileError(f"{file}: calls.{action}: the API has no such action")
    return found
