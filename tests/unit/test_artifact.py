"""Destroying what a build left: where that fails, what is still there is named."""

from typing import Any, cast

import pytest

from packer_plugin_osc_chroot import artifact
from packer_plugin_osc_chroot.artifact import Artifact
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.context import Result
from packer_plugin_osc_chroot.errors import CloudError, UndoError


@pytest.mark.parametrize(
    ("refused", "left"),
    [
        ("ami-1", ("OMI ami-1", "snapshot snap-1", "snapshot snap-2")),
        ("snap-1", ("snapshot snap-1", "snapshot snap-2")),
        ("snap-2", ("snapshot snap-2",)),
    ],
)
def test_what_cannot_be_destroyed_is_named(
    monkeypatch: pytest.MonkeyPatch, refused: str, left: tuple[str, ...]
) -> None:
    def delete(cloud: Cloud, key: str, *, token: Any) -> None:
        if key == refused:
            raise CloudError("DeleteX: in use", action="DeleteX", status=409)

    monkeypatch.setattr(artifact, "delete_image", delete)
    monkeypatch.setattr(artifact, "delete_snapshot", delete)
    result = Result(
        region="eu-west-2",
        image_id="ami-1",
        snapshot_ids=("snap-1", "snap-2"),
        source_image_id="",
        data={},
        cloud=cast(Cloud, None),
    )
    with pytest.raises(UndoError, match="left behind: DeleteX: in use") as caught:
        Artifact(result).destroy()
    assert caught.value.left == left
    assert all(each.split()[1] in caught.value.hint for each in left)
