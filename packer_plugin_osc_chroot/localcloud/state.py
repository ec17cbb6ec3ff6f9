"""What exists in the Region: accounts, the VM, volumes, snapshots, OMIs.

Changed by the Region's own thread only. `view` methods give the shapes of the official document.
"""

import secrets
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime

from packer_plugin_osc_chroot.localcloud import assumptions
from packer_plugin_osc_chroot.localcloud.attacher import Attachment
from packer_plugin_osc_chroot.localcloud.openapi import Json
from packer_plugin_osc_chroot.localcloud.quotas import Quotas

_KEY_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def new_id(prefix: str) -> str:
    return f"{prefix}-{secrets.token_hex(4)}"


def new_request_id() -> str:
    return str(uuid.uuid4())


def now() -> datetime:
    return datetime.now(UTC)


def iso(date: datetime) -> str:
    return f"{date:%Y-%m-%dT%H:%M:%S}.{date.microsecond // 1000:03}Z"


@dataclass(frozen=True)
class Account:
    """An account and its one access key."""

    account_id: str
    alias: str
    access_key: str
    secret_key: str = field(repr=False)
    quotas: Quotas = Quotas()

    def view(self) -> Json:
        return {
            "AccountId": self.account_id,
            "City": "Saint-Cloud",
            "CompanyName": "localcloud",
            "Country": "France",
            "CustomerId": self.account_id,
            "Email": "user@localcloud.invalid",
            "FirstName": "Local",
            "LastName": "Cloud",
            "ZipCode": "92210",
        }


def new_account_id() -> str:
    return f"{secrets.randbelow(10**12):012}"


def new_key(length: int) -> str:
    return "".join(secrets.choice(_KEY_LETTERS) for _ in range(length))


def tags_view(tags: dict[str, str]) -> list[Json]:
    return [{"Key": key, "Value": value} for key, value in tags.items()]


@dataclass
class Permissions:
    """Who besides the owner may use a resource."""

    account_ids: list[str] = field(default_factory=list)
    everybody: bool = False

    def allows(self, account_id: str) -> bool:
        return self.everybody or account_id in self.account_ids

    def view(self) -> Json:
        return {"AccountIds": list(self.account_ids), "GlobalPermission": self.everybody}


@dataclass
class Link:
    """A volume's link to a VM. `slot` is the name on the machine, `xvdX`."""

    vm_id: str
    device_name: str
    slot: str
    state: str = "attaching"
    created: datetime = field(default_factory=now)
    attachment: Attachment | None = None


@dataclass
class Volume:
    volume_id: str
    account_id: str
    subregion: str
    size: int
    volume_type: str
    iops: int
    snapshot_id: str = ""
    client_token: str = ""
    state: str = "creating"
    created: datetime = field(default_factory=now)
    tags: dict[str, str] = field(default_factory=dict)
    link: Link | None = None
    # The update that is on its way.
    task_id: str = ""

    def view(self) -> Json:
        linked = []
        if self.link is not None:
            linked.append(
                {
                    "DeleteOnVmDeletion": self.link.slot == "",
                    "DeviceName": self.link.device_name,
                    "State": self.link.state,
                    "VmId": self.link.vm_id,
                    "VolumeId": self.volume_id,
                }
            )
        found: Json = {
            "CreationDate": iso(self.created),
            "Iops": self.iops,
            "LinkedVolumes": linked,
            "Size": self.size,
            "State": self.state,
            "SubregionName": self.subregion,
            "Tags": tags_view(self.tags),
            "VolumeId": self.volume_id,
            "VolumeType": self.volume_type,
        }
        if self.snapshot_id:
            found["SnapshotId"] = self.snapshot_id
        if self.client_token:
            found["ClientToken"] = self.client_token
        if self.task_id:
            found["TaskId"] = self.task_id
        return found


@dataclass(frozen=True)
class VolumeShape:
    """What UpdateVolume changes."""

    size: int
    volume_type: str
    iops: int

    def view(self) -> Json:
        return {"Iops": self.iops, "Size": self.size, "VolumeType": self.volume_type}


@dataclass
class VolumeUpdate:
    task_id: str
    account_id: str
    volume_id: str
    origin: VolumeShape
    target: VolumeShape
    state: str = "pending"
    progress: int = 0
    started: datetime = field(default_factory=now)
    completed: datetime | None = None
    tags: dict[str, str] = field(default_factory=dict)

    def view(self) -> Json:
        found: Json = {
            "Progress": self.progress,
            "StartDate": iso(self.started),
            "State": self.state,
            "Tags": tags_view(self.tags),
            "TaskId": self.task_id,
            "VolumeId": self.volume_id,
            "VolumeUpdate": {"Origin": self.origin.view(), "Target": self.target.view()},
        }
        if self.completed is not None:
            found["CompletionDate"] = iso(self.completed)
        return found


@dataclass
class Snapshot:
    """`writes` is what had been written to the volume's disk when the data was taken.

    `source_id` is the snapshot that it is a copy of.
    """

    snapshot_id: str
    account_id: str
    account_alias: str
    size: int
    volume_id: str = ""
    source_id: str = ""
    description: str = ""
    client_token: str = ""
    state: str = "in-queue"
    progress: int = 0
    created: datetime = field(default_factory=now)
    tags: dict[str, str] = field(default_factory=dict)
    permissions: Permissions = field(default_factory=Permissions)
    writes: tuple[Attachment, int] | None = None

    def view(self) -> Json:
        found: Json = {
            "AccountAlias": self.account_alias,
            "AccountId": self.account_id,
            "CreationDate": iso(self.created),
            "Description": self.description,
            "PermissionsToCreateVolume": self.permissions.view(),
            "Progress": self.progress,
            "SnapshotId": self.snapshot_id,
            "State": self.state,
            "Tags": tags_view(self.tags),
            "VolumeSize": self.size,
        }
        if self.volume_id:
            found["VolumeId"] = self.volume_id
        if self.client_token:
            found["ClientToken"] = self.client_token
        return found


@dataclass
class Image:
    """`mappings` are in the document's shape, with every value filled in.

    `source_id` is the OMI that it is a copy of.
    """

    image_id: str
    account_id: str
    account_alias: str
    name: str
    mappings: list[Json]
    root_device_name: str
    source_id: str = ""
    architecture: str = "x86_64"
    description: str = ""
    boot_modes: list[str] = field(default_factory=list)
    product_codes: list[str] = field(default_factory=lambda: ["0001"])
    tpm_mandatory: bool = False
    state: str = "pending"
    created: datetime = field(default_factory=now)
    tags: dict[str, str] = field(default_factory=dict)
    permissions: Permissions = field(default_factory=Permissions)

    def snapshot_ids(self) -> list[str]:
        mapped = (mapping.get("Bsu", {}).get("SnapshotId", "") for mapping in self.mappings)
        return [snapshot_id for snapshot_id in mapped if snapshot_id]

    def root_snapshot_id(self) -> str:
        for mapping in self.mappings:
            if mapping["DeviceName"] == self.root_device_name:
                return str(mapping["Bsu"]["SnapshotId"])
        raise LookupError(f"{self.image_id} has no root volume")

    def view(self) -> Json:
        return {
            "AccountAlias": self.account_alias,
            "AccountId": self.account_id,
            "Architecture": self.architecture,
            "BlockDeviceMappings": self.mappings,
            "BootModes": self.boot_modes,
            "CreationDate": iso(self.created),
            "Description": self.description,
            "FileLocation": f"{self.account_id}/{self.name}",
            "ImageId": self.image_id,
            "ImageName": self.name,
            "ImageType": "machine",
            "PermissionsToLaunch": self.permissions.view(),
            "ProductCodes": self.product_codes,
            "RootDeviceName": self.root_device_name,
            "RootDeviceType": "bsu",
            "SecureBoot": False,
            "State": self.state,
            "StateComment": {},
            "Tags": tags_view(self.tags),
            "TpmMandatory": self.tpm_mandatory,
        }


@dataclass
class Vm:
    """The VM that this machine plays."""

    vm_id: str
    account_id: str
    subregion: str
    image_id: str
    created: datetime = field(default_factory=now)
    tags: dict[str, str] = field(default_factory=dict)

    def view(self, volumes: list[Volume]) -> Json:
        """`volumes` are those that are linked to it, the root volume first."""
        mappings = [
            {
                "Bsu": {
                    "DeleteOnVmDeletion": volume.link.slot == "",
                    "LinkDate": iso(volume.link.created),
                    "State": volume.link.state,
                    "VolumeId": volume.volume_id,
                },
                "DeviceName": volume.link.device_name,
            }
            for volume in volumes
            if volume.link is not None
        ]
        return {
            "Architecture": "x86_64",
            "BlockDeviceMappings": mappings,
            "BootMode": "legacy",
            "BsuOptimized": False,
            "CreationDate": iso(self.created),
            "DeletionProtection": False,
            "Hypervisor": "xen",
            "ImageId": self.image_id,
            "IsSourceDestChecked": True,
            "LaunchNumber": 0,
            "NestedVirtualization": False,
            "Performance": "high",
            "Placement": {"SubregionName": self.subregion, "Tenancy": "default"},
            "PrivateDnsName": f"ip-10-0-0-4.{self.subregion[:-1]}.compute.internal",
            "PrivateIp": "10.0.0.4",
            "ProductCodes": ["0001"],
            "ReservationId": f"r-{self.vm_id.removeprefix('i-')}",
            "RootDeviceName": "/dev/sda1",
            "RootDeviceType": "bsu",
            "State": assumptions.VM_STATE,
            "StateReason": "",
            "Tags": tags_view(self.tags),
            "VmId": self.vm_id,
            "VmInitiatedShutdownBehavior": "stop",
            "VmType": "tinav5.c2r4p2",
        }
