"""Builds in this process, on a localcloud: Packer and its provisioners are played by plain objects."""

import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from packer_plugin_osc_chroot.build import build
from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.cloud.credentials import find_credentials
from packer_plugin_osc_chroot.context import Communicator, Context, Result
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.localcloud.catalogue import AccountEntry, Catalogue, OmiEntry
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.images import tiny_image
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.redaction import Redactor
from packer_plugin_osc_chroot.template.engine import Scope
from packer_plugin_osc_chroot.ui import RecordingUi, Ui

SOURCE = "ami-00000001"
VENDOR = {"OSC_ACCESS_KEY": "VENDOR", "OSC_SECRET_KEY": "SECRET"}
OPTIONS = Config(
    source_omi=SOURCE,
    omi_name="made by a test",
    omi_description="from {{.SourceOMI}}",
    tags={"made-by": "{{.BuildRegion}}"},
    snapshot_tags={"kind": "root of {{.SourceOMIName}}"},
    root_volume_tags={"kind": "work"},
    # The tiny image has no shell: what runs in a chroot is tested with the real packer.
    pre_mount_commands=("test -b {{.Device}}",),
    post_mount_commands=("mountpoint -q {{.MountPath}}",),
)


class Provisioner:
    """Stands for Packer's provisioners: leaves a file in the image, and looks around."""

    def __init__(
        self,
        *,
        fails: bool = False,
        look: Callable[[Communicator, Mapping[str, str]], None] = lambda communicator, data: None,
    ) -> None:
        self.fails = fails
        self.look = look
        self.cleaned_up = False
        self.data: Mapping[str, str] = {}

    def run(self, communicator: Communicator, data: Mapping[str, str]) -> None:
        self.data = data
        communicator.files.upload("/made", [b"yes\n"], mode=0o640, token=CancelToken())
        self.look(communicator, data)
        if self.fails:
            raise BuildError("the script failed")

    def clean_up(self, communicator: Communicator, data: Mapping[str, str]) -> None:
        self.cleaned_up = True


def run(
    cloud: LocalCloud,
    *,
    config: Config = OPTIONS,
    ui: Ui | None = None,
    token: CancelToken | None = None,
    provisioner: Provisioner | None = None,
    environ: Mapping[str, str] | None = None,
) -> Result:
    return build_on(
        cloud.environment() if environ is None else environ,
        config=config,
        ui=ui,
        token=token,
        provisioner=provisioner,
    )


def build_on(
    environ: Mapping[str, str],
    *,
    config: Config = OPTIONS,
    ui: Ui | None = None,
    token: CancelToken | None = None,
    provisioner: Provisioner | None = None,
) -> Result:
    """A build on the Region that the environment names; what it learns goes with the Region."""
    if own := environ.get("OSC_CONFIG_FILE"):
        environ = {"XDG_CACHE_HOME": str(Path(own).with_name("cache")), **environ}
    return build(
        Context(
            config=config,
            scope=Scope(started_at=datetime.now(UTC)),
            ui=ui or RecordingUi(),
            token=token or CancelToken(),
            provisioners=provisioner or Provisioner(),
            environ=environ,
            redact=Redactor(),
        )
    )


def two_accounts(tmp_path: Path, *omis: OmiEntry) -> Catalogue:
    """Of `mine`, whose the VM is, and `vendor`, with the keys VENDOR; each OMI is a tiny disk's."""
    disk = str(tiny_image(tmp_path / "tiny.raw"))
    vendor = AccountEntry(
        "vendor", access_key=VENDOR["OSC_ACCESS_KEY"], secret_key=VENDOR["OSC_SECRET_KEY"]
    )
    return Catalogue(
        accounts=[AccountEntry("mine"), vendor],
        omis=[replace(omi, file=disk) for omi in omis],
    )


def assert_nothing_left(cloud: LocalCloud) -> None:
    assert cloud.leftovers() == []
    assert cloud.defects == []


def sent(cloud: LocalCloud, action: str) -> list[dict[str, Any]]:
    """What the API was asked for by that action, trials left out, in the order of time."""
    calls = [call.parameters for call in cloud.record if call.action == action]
    return [parameters for parameters in calls if not parameters.get("DryRun")]


def client(cloud: LocalCloud, **keys: str) -> Cloud:
    """A client of the API like the build's; with other keys, that of another account."""
    environ = {**cloud.environment(), **keys}
    return Cloud(find_credentials(Config(), environ), region=environ["OSC_REGION"])


def live_snapshots(cloud: LocalCloud) -> list[str]:
    """Those whose deletion has not been taken yet."""
    return [each.snapshot_id for each in cloud.snapshots() if each.state != "deleting"]


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    """The first partition of a raw image, read-only."""
    line = subprocess.run(
        ["sfdisk", "--json", str(image)], check=True, capture_output=True, text=True
    ).stdout
    start = int(line.split('"start":')[1].split(",")[0]) * 512
    options = f"ro,loop,noload,offset={start}"
    subprocess.run(["mount", "-o", options, str(image), str(at)], check=True)
    try:
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)
