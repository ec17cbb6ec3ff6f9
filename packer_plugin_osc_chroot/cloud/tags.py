"""Tags, which the API takes in a call of their own."""

from collections.abc import Mapping, Sequence

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud


def create_tags(
    cloud: Cloud, resource_ids: Sequence[str], tags: Mapping[str, str], *, token: CancelToken
) -> None:
    """Put tags on resources; keys that are there are overwritten."""
    cloud.change(
        "CreateTags",
        token=token,
        ResourceIds=list(resource_ids),
        Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
    )


def as_map(tags: Sequence[Mapping[str, str]] | None) -> dict[str, str]:
    """The API's list of key/value pairs as a mapping."""
    return {tag["Key"]: tag["Value"] for tag in tags or ()}
