"""The data sources: the options of each, and what each tells. These tables are all that declares them.

Their options' values are read, checked and documented as the builder's are; an output is declared like
an option, and never set by a template.
"""

import dataclasses
from collections.abc import Mapping

from packer_plugin_osc_chroot.options.blocks import OmiFilter
from packer_plugin_osc_chroot.options.config import COMPONENT_NAME, AccessOptions
from packer_plugin_osc_chroot.options.declaration import option

DATA_SOURCE_KIND = "datasource"


@dataclasses.dataclass(frozen=True)
class OmiOptions(AccessOptions, OmiFilter):
    """Which OMI is meant: as `source_omi_filter` of the builder says it."""


@dataclasses.dataclass(frozen=True)
class Omi:
    """An OMI, as templates see it. Empty strings, empty lists and 0 stand for what it has not."""

    id: str = option("The OMI's id.", default="")
    name: str = option("Its name.", default="")
    description: str = option("Its description.", default="")
    account_id: str = option("The id of the account that it belongs to.", default="")
    account_alias: str = option("That account's alias, such as `Outscale`.", default="")
    region: str = option("The Region that it is in.", default="")
    creation_date: str = option(
        "When it was made, as the API writes it: `2026-01-31T08:15:00.000Z`.", default=""
    )
    architecture: str = option("Its architecture: `x86_64` or `i386`.", default="")
    boot_modes: tuple[str, ...] = option("Its boot modes: `legacy`, `uefi`.", default=())
    product_codes: tuple[str, ...] = option("Its product codes.", default=())
    root_device_name: str = option("The name of its root device.", default="")
    root_snapshot_id: str = option("The id of its root device's snapshot.", default="")
    root_volume_size: int = option("The size of its root volume, in GiB.", default=0)
    root_volume_type: str = option("The type of its root volume.", default="")
    tags: Mapping[str, str] = option("Its tags.", default={})


@dataclasses.dataclass(frozen=True)
class IdentityOptions(AccessOptions):
    """Nothing beside how the API is reached."""


@dataclasses.dataclass(frozen=True)
class Identity:
    """Whose credentials these are, and where they are used.

    No call of the API says which EIM user an access key belongs to, and what ReadAccounts has beside
    the id is its owner's name, address and telephone number.
    """

    account_id: str = option("The id of the account that the credentials belong to.", default="")
    region: str = option("The Region that the API was asked in.", default="")
    endpoint: str = option("The endpoint of the API that was asked.", default="")


@dataclasses.dataclass(frozen=True)
class DataSource:
    """One data source. `actions`: what its credentials must be allowed to call, as documented."""

    name: str
    summary: str
    options: type[AccessOptions]
    outputs: type
    actions: str
    example: str


OMI = DataSource(
    name=f"{COMPONENT_NAME}-omi",
    summary="Finds an OMI by filters: the only one that matches, or with `most_recent` the newest of"
    " those that do. Only OMIs that are available count, unless a filter asks for another state.",
    options=OmiOptions,
    outputs=Omi,
    actions="`ReadImages`; with `self` in `owners` also `ReadAccounts`",
    example="""\
data "osc-chroot-omi" "debian" {
  filters = {
    image-name   = "Debian-12-*"
    architecture = "x86_64"
  }
  owners      = ["Outscale"]
  most_recent = true
}

source "osc-chroot" "web" {
  source_omi = data.osc-chroot-omi.debian.id
  omi_name   = "web on ${data.osc-chroot-omi.debian.name} {{timestamp}}"
}
""",
)
IDENTITY = DataSource(
    name=f"{COMPONENT_NAME}-identity",
    summary="Tells whose credentials are used, and in which Region.",
    options=IdentityOptions,
    outputs=Identity,
    actions="`ReadAccounts`",
    example="""\
data "osc-chroot-identity" "me" {}

source "osc-chroot" "web" {
  source_omi = "ami-3e158364"
  omi_name   = "web {{timestamp}}"
  tags = {
    built-by = data.osc-chroot-identity.me.account_id
    built-in = data.osc-chroot-identity.me.region
  }
}
""",
)
DATA_SOURCES: Mapping[str, DataSource] = {each.name: each for each in (OMI, IDENTITY)}
