"""What a build is given and what it leaves: the seam between the service and the build."""

import dataclasses
from collections.abc import Mapping
from typing import Protocol

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.host.chroot import Chroot
from packer_plugin_osc_chroot.host.transfer import RootFs
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.redaction import Redactor
from packer_plugin_osc_chroot.template.engine import Scope
from packer_plugin_osc_chroot.ui import Ui


@dataclasses.dataclass(frozen=True)
class Communicator:
    """The inside of the chroot, as provisioners reach it."""

    chroot: Chroot
    files: RootFs


class Provisioners(Protocol):
    """Packer's provisioners: Go objects at the other end of the stream."""

    def run(self, communicator: Communicator, data: Mapping[str, str]) -> None:
        """Run them all. Raises BuildError, Cancelled."""

    def clean_up(self, communicator: Communicator, data: Mapping[str, str]) -> None:
        """Run the error-cleanup-provisioner, if there is one."""


@dataclasses.dataclass(frozen=True)
class Context:
    """What a build is given; opened once."""

    config: Config
    scope: Scope
    ui: Ui
    token: CancelToken
    provisioners: Provisioners
    environ: Mapping[str, str]
    redact: Redactor


@dataclasses.dataclass(frozen=True)
class Result:
    """What a build leaves: the image and its snapshots, and what templates know of it."""

    region: str
    image_id: str
    image_name: str
    snapshot_ids: tuple[str, ...]
    source_image_id: str
    data: Mapping[str, str]
    cloud: Cloud
