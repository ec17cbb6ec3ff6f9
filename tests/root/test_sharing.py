"""Who may use the new OMI and its snapshot: each option goes to its own resource."""

import dataclasses

import pytest
from in_process import OPTIONS, assert_nothing_left, live_snapshots, run, sent

from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.latency import Latency
from packer_plugin_osc_chroot.localcloud.trouble import Refusal, Trouble

pytestmark = pytest.mark.root

ONE, TWO = "123456789012", "210987654321"
UPDATES = ("UpdateImage", "UpdateSnapshot")


def test_the_omi_and_its_snapshot_have_permissions_of_their_own() -> None:
    config = dataclasses.replace(
        OPTIONS, omi_account_ids=(ONE, TWO), snapshot_account_ids=(TWO,), snapshot_groups=("all",)
    )
    with LocalCloud() as cloud:
        result = run(cloud, config=config)
        assert sent(cloud, "UpdateImage") == [
            {
                "ImageId": result.image_id,
                "PermissionsToLaunch": {"Additions": {"AccountIds": [ONE, TWO]}},
            }
        ]
        assert sent(cloud, "UpdateSnapshot") == [
            {
                "SnapshotId": result.snapshot_ids[0],
                "PermissionsToCreateVolume": {
                    "Additions": {"AccountIds": [TWO], "GlobalPermission": True}
                },
            }
        ]
        (image,), (snapshot,) = cloud.images(), cloud.snapshots()
        assert image.permissions.view() == {"AccountIds": [ONE, TWO], "GlobalPermission": False}
        assert snapshot.permissions.view() == {"AccountIds": [TWO], "GlobalPermission": True}
        assert_nothing_left(cloud)


@pytest.mark.parametrize("option", [{"omi_groups": ("all",)}, {"global_permission": True}])
def test_a_public_omi(option: dict[str, object]) -> None:
    with LocalCloud() as cloud:
        run(cloud, config=dataclasses.replace(OPTIONS, **option))  # type: ignore[arg-type]
        (image,), (snapshot,) = cloud.images(), cloud.snapshots()
        assert image.permissions.everybody and not snapshot.permissions.everybody


def test_nothing_is_shared_unasked() -> None:
    with LocalCloud() as cloud:
        run(cloud)
        assert {call.action for call in cloud.record} & {"UpdateImage", "UpdateSnapshot"} == set()


def test_where_the_api_shares_only_what_is_complete() -> None:
    config = dataclasses.replace(OPTIONS, omi_account_ids=(ONE,), snapshot_account_ids=(TWO,))
    refusals = [Refusal(action=action, seconds=0.7) for action in UPDATES]
    latency = Latency(snapshot=1.0, image=1.0)
    with LocalCloud(trouble=Trouble(refusals=refusals), latency=latency) as cloud:
        run(cloud, config=config)
        (image,), (snapshot,) = cloud.images(), cloud.snapshots()
        assert image.permissions.account_ids == [ONE]
        assert snapshot.permissions.account_ids == [TWO]
        assert len(sent(cloud, "UpdateImage")) == len(sent(cloud, "UpdateSnapshot")) == 2


@pytest.mark.parametrize(
    ("action", "options"),
    [("UpdateImage", "omi_account_ids, omi_groups"), ("UpdateSnapshot", "snapshot_account_ids")],
)
def test_what_cannot_be_shared_names_the_options_and_leaves_nothing(
    action: str, options: str
) -> None:
    config = dataclasses.replace(OPTIONS, omi_account_ids=(ONE,), snapshot_account_ids=(TWO,))
    refusals = [Refusal(action=action, seconds=60.0)]
    with LocalCloud(trouble=Trouble(refusals=refusals)) as cloud:
        with pytest.raises(BuildError, match=f"^{options}.*{action}"):
            run(cloud, config=config)
        assert cloud.images() == [] and live_snapshots(cloud) == []
        assert_nothing_left(cloud)


@pytest.mark.parametrize("action", UPDATES)
def test_a_permission_that_is_lacking_is_known_before_anything_is_made(action: str) -> None:
    config = dataclasses.replace(OPTIONS, omi_account_ids=(ONE,), snapshot_account_ids=(TWO,))
    with LocalCloud(trouble=Trouble(forbidden=[action])) as cloud:
        with pytest.raises(BuildError, match=f"may not call {action}"):
            run(cloud, config=config)
        assert sent(cloud, "CreateVolume") == []
