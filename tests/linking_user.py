"""Another user of the VM, who links a volume to it and unlinks it, again and again."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.cloud.credentials import find_credentials
from packer_plugin_osc_chroot.cloud.wait import insist
from packer_plugin_osc_chroot.errors import CloudError
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.options.config import Config


@contextmanager
def somebody_linking(cloud: LocalCloud) -> Iterator[None]:
    """They do so inside of the block, and have nothing left after it."""
    over = threading.Event()
    user = threading.Thread(target=_keep_linking, args=(cloud, over))
    user.start()
    try:
        yield
    finally:
        over.set()
        user.join()


def _keep_linking(cloud: LocalCloud, over: threading.Event) -> None:
    """Link and unlink a volume again and again, under the first names, until it is over."""
    environment = cloud.environment()
    credentials = find_credentials(Config(), environment)
    client = Cloud(credentials, region=credentials.region)
    token = CancelToken()
    answer = client.change("CreateVolume", token=token, SubregionName=cloud.subregion, Size=1)
    volume = str(answer["Volume"]["VolumeId"])

    def until_taken(action: str) -> None:
        insist(
            lambda: client.change(action, token=token, VolumeId=volume),
            is_done=lambda: False,
            token=token,
        )

    def is_linked(device: str) -> bool:
        # The name is taken, or the volume is not ready yet.
        with suppress(CloudError):
            client.change(
                "LinkVolume", token=token, VolumeId=volume, VmId=cloud.vm_id, DeviceName=device
            )
            return True
        return False

    while not over.is_set():
        if any(is_linked(f"/dev/xvd{letter}") for letter in "bcdefghijklm"):
            until_taken("UnlinkVolume")
        token.sleep(0.1)
    until_taken("DeleteVolume")
    client.close()
