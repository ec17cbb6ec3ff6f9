"""What Packer's post-processors and users see of a finished build."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.context import Result
from packer_plugin_osc_chroot.resources.image import delete_image
from packer_plugin_osc_chroot.resources.snapshot import delete_snapshot

BUILDER_TYPE_ID = "outscale.osc-chroot"
_DESTROY_SECONDS = 300.0


@dataclasses.dataclass(frozen=True)
class Artifact:
    """The image and its snapshots."""

    result: Result

    @property
    def id(self) -> str:
        """Region and image, as OUTSCALE's own builders write it."""
        return f"{self.result.region}:{self.result.image_id}"

    @property
    def description(self) -> str:
        return f"OMIs were created:\n{self.result.region}: {self.result.image_id}\n"

    def state(self, name: str) -> Mapping[str, Any] | None:
        """What post-processors may ask for; None for what there is not."""
        if name == "generated_data":
            return dict(self.result.data)
        return None

    def destroy(self) -> None:
        """Remove the image, then its snapshots. Raises CloudError."""
        token = CancelToken(deadline=_DESTROY_SECONDS, reason="removing the OMI took too long")
        delete_image(self.result.cloud, self.result.image_id, token=token)
        for snapshot_id in self.result.snapshot_ids:
            delete_snapshot(self.result.cloud, snapshot_id, token=token)
