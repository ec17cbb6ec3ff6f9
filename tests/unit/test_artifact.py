"""What a finished build tells Packer; and its removal: where that fails, what is left is named."""

import dataclasses
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
        image_name="made",
        snapshot_ids=("snap-1", "snap-2"),
        source_image_id="",
        data={},
        cloud=cast(Cloud, None),
    )
    with pytest.raises(UndoError, match="left behind: DeleteX: in use") as caught:
        Artifact(result).destroy()
    assert caught.value.left == left
    assert all(each.split()[1] in caught.value.hint for each in left)


def test_what_hcp_packer_is_told() -> None:
    """The shim's artifact_test.go has the same, and decodes it as Packer does."""
    result = Result(
        region="eu-west-2",
        image_id="ami-1",
        image_name="made",
        snapshot_ids=("snap-1",),
        source_image_id="ami-0",
        data={"SourceOMIName": "base"},
        cloud=cast(Cloud, None),
    )
    assert Artifact(result).state("par.artifact.metadata") == [
        {
            "ImageID": "ami-1",
            "ProviderName": "osc",
            "ProviderRegion": "eu-west-2",
            "SourceImageID": "ami-0",
            "Labels": {
                "omi_name": "made",
                "snapshot_ids": "snap-1",
                "source_omi_name": "base",
            },
        }
    ]
    from_scratch = dataclasses.replace(result, source_image_id="", data={"SourceOMIName": ""})
    (image,) = cast(Any, Artifact(from_scratch).state("par.artifact.metadata"))
    assert image["SourceImageID"] == "" and "source_omi_name" not in image["Labels"]
