"""What Packer's post-processors and users see of a finished build."""

import dataclasses
from collections.abc import Mapping

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.context import Result
from packer_plugin_osc_chroot.errors import BuildError, UndoError
from packer_plugin_osc_chroot.resources.image import delete_image
from packer_plugin_osc_chroot.resources.snapshot import delete_snapshot

BUILDER_TYPE_ID = "outscale.osc-chroot"
# What HCP Packer calls the provider: the name that OUTSCALE's own builders have there.
PROVIDER = "osc"
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

    def state(self, name: str) -> object:
        """What Packer and post-processors ask for, in JSON's types; None for what there is not."""
        match name:
            case "generated_data":
                return dict(self.result.data)
            case "par.artifact.metadata":
                return [self._registry_image()]
        return None

    def _registry_image(self) -> Mapping[str, object]:
        """For HCP Packer: the fields of the SDK's `registry/image.Image`."""
        result = self.result
        labels = {
            "omi_name": result.image_name,
            "snapshot_ids": ",".join(result.snapshot_ids),
            "source_omi_name": result.data.get("SourceOMIName", ""),
        }
        return {
            "ImageID": result.image_id,
            "ProviderName": PROVIDER,
            "ProviderRegion": result.region,
            "SourceImageID": result.source_image_id,
            "Labels": {name: text for name, text in labels.items() if text},
        }

    def destroy(self) -> None:
        """Remove the image, then its snapshots. Raises UndoError naming what is left."""
        cloud = self.result.cloud
        token = CancelToken(deadline=_DESTROY_SECONDS, reason="removing the OMI took too long")
        left = [("OMI", "DeleteImage --ImageId", self.result.image_id)]
        left += [("snapshot", "DeleteSnapshot --SnapshotId", x) for x in self.result.snapshot_ids]
        try:
            delete_image(cloud, self.result.image_id, token=token)
            del left[0]
            for snapshot_id in self.result.snapshot_ids:
                delete_snapshot(cloud, snapshot_id, token=token)
                del left[0]
        except BuildError as error:
            names = [f"{kind} {key}" for kind, _, key in left]
            commands = [f"osc-cli api {command} {key}" for _, command, key in left]
            raise UndoError(
                f"{', '.join(names)}: left behind: {error.message}",
                left=names,
                hint=f"Delete them, in this order: {'; '.join(commands)}",
            ) from error
