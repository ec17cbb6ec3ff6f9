"""Data sources: one question to the API each, and the answer as templates see it.

They run wherever templates are evaluated: as any user, and not only on VMs of OUTSCALE.
"""

import logging
from collections.abc import Mapping

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.access import find_cloud
from packer_plugin_osc_chroot.cloud.account import account_id
from packer_plugin_osc_chroot.cloud.client import Cloud, is_forbidden
from packer_plugin_osc_chroot.cloud.metadata import region_if_known
from packer_plugin_osc_chroot.cloud.tags import as_map
from packer_plugin_osc_chroot.errors import BuildError, CloudError
from packer_plugin_osc_chroot.options.config import AccessOptions
from packer_plugin_osc_chroot.options.data_sources import (
    Identity,
    IdentityOptions,
    Omi,
    OmiOptions,
)
from packer_plugin_osc_chroot.redaction import Redactor
from packer_plugin_osc_chroot.resources.image import Json, split_mappings
from packer_plugin_osc_chroot.source import find_source, wanted_by
from packer_plugin_osc_chroot.ui import LogUi

log = logging.getLogger(__name__)


def evaluate(
    options: AccessOptions, environ: Mapping[str, str], *, redact: Redactor, token: CancelToken
) -> Omi | Identity:
    """What the data source with these options tells. Raises BuildError, Cancelled."""
    cloud = find_cloud(
        options,
        environ,
        lambda: region_if_known(environ, token=token),
        redact=redact,
        token=token,
        ui=LogUi(log),
    )
    try:
        match options:
            case OmiOptions():
                return _find_omi(cloud, options, token=token)
            case IdentityOptions():
                return _find_identity(cloud, token=token)
    finally:
        cloud.close()
    raise AssertionError(f"{type(options).__name__} is no data source's")


def _find_omi(cloud: Cloud, options: OmiOptions, *, token: CancelToken) -> Omi:
    image = find_source(
        cloud,
        wanted_by(options, block=""),
        account_id=lambda: _own_account(
            cloud, instead="; or write the account's id in owners, not self", token=token
        ),
        token=token,
    )
    return parse_omi(image, region=cloud.region)


def parse_omi(image: Json, *, region: str) -> Omi:
    """An image as the API shows it."""
    bsu = split_mappings(image)[0].get("Bsu") or {}
    return Omi(
        id=str(image["ImageId"]),
        name=str(image.get("ImageName") or ""),
        description=str(image.get("Description") or ""),
        account_id=str(image.get("AccountId") or ""),
        account_alias=str(image.get("AccountAlias") or ""),
        region=region,
        creation_date=str(image.get("CreationDate") or ""),
        architecture=str(image.get("Architecture") or ""),
        boot_modes=tuple(map(str, image.get("BootModes") or ())),
        product_codes=tuple(map(str, image.get("ProductCodes") or ())),
        root_device_name=str(image.get("RootDeviceName") or ""),
        root_snapshot_id=str(bsu.get("SnapshotId") or ""),
        root_volume_size=int(bsu.get("VolumeSize") or 0),
        root_volume_type=str(bsu.get("VolumeType") or ""),
        tags=as_map(image.get("Tags")),
    )


def _find_identity(cloud: Cloud, *, token: CancelToken) -> Identity:
    own = _own_account(cloud, token=token)
    return Identity(account_id=own, region=cloud.region, endpoint=cloud.endpoint)


def _own_account(cloud: Cloud, *, instead: str = "", token: CancelToken) -> str:
    """Its id. The first call of all: nothing has shown before whether the keys are good.

    `instead`: what else a user may do who must not call ReadAccounts.
    """
    try:
        return account_id(cloud, token=token)
    except CloudError as error:
        if not is_forbidden(error):
            raise
        # The API answers wrong keys and a lack of permission alike.
        raise BuildError(
            error.message,
            hint="Check access_key and secret_key, and that their user may call ReadAccounts"
            + instead,
        ) from error
