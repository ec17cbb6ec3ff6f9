"""What a build decides once it knows its source OMI: what options cannot be told to be at Prepare."""

from datetime import UTC, datetime

import pytest

from packer_plugin_osc_chroot.cloud.metadata import Identity
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.look import Facts
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.plan import Late, Plan, late_data, plan_build, plan_wrapper
from packer_plugin_osc_chroot.resources.image import SourceImage, parse_source
from packer_plugin_osc_chroot.template.engine import Scope


def planned(volume_type: str, iops: int, **options: object) -> Plan:
    """With a source OMI whose root is of that type."""
    source = SourceImage(
        image_id="ami-12345678",
        name="source",
        account_id="123456789012",
        architecture="x86_64",
        tags={},
        root={"DeviceName": "/dev/sda1", "Bsu": {"SnapshotId": "snap-12345678"}},
        other_mappings=[],
        snapshot_id="snap-12345678",
        size=10,
        volume_type=volume_type,
        iops=iops,
    )
    facts = Facts(Identity("i-12345678", "eu-west-2a"), "eu-west-2", "123456789012", source)
    config = Config(source_omi="ami-12345678", omi_name="new", **options)  # type: ignore[arg-type]
    scope = Scope(
        build_name="x",
        build_type="osc-chroot",
        template_path="",
        packer_version="",
        user_variables=None,
        started_at=datetime.now(UTC),
    )
    return plan_build(config, facts, Late(scope, late_data(facts), pytest.fail))


def test_iops_go_with_the_type_that_the_source_has() -> None:
    assert planned("io1", 100).volume.iops == 100
    assert planned("io1", 100, root_volume_iops=200).volume.iops == 200
    assert planned("io1", 100, root_volume_type="gp2").volume.iops == 0


def test_iops_that_would_do_nothing_are_an_error() -> None:
    with pytest.raises(BuildError, match='root_volume_iops: goes with .* io1 only, found "gp2"'):
        planned("gp2", 0, root_volume_iops=200)


def test_what_is_given_twice_is_asked_for_once() -> None:
    given = {"omi_boot_modes": ("uefi", "legacy", "uefi"), "omi_product_codes": ("0002", "0002")}
    image = planned("gp2", 0, **given).image
    assert (image.boot_modes, image.product_codes) == (("uefi", "legacy"), ("0002",))


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("mount_path", "/{{.SourceOMITags.X | print | slice ``}}", "mount_path: "),
        (
            "mount_path",
            "/mnt/{{.Device}}/../..",
            'must be a folder below /, found "/mnt/xvdf/../.."',
        ),
        ("mount_path", "{{.SourceOMIName}}", 'must be an absolute path, found "source"'),
        ("mount_path", '/mnt/{{.Device}}{{"\\x00"}}', "mount_path: holds a NUL"),
        ("omi_description", '{{.SourceOMI}}{{"\\x07"}}', "omi_description: may hold no control"),
        ("pre_mount_commands", ('{{.Device}}{{"\\x00"}}',), "pre_mount_commands: holds a NUL"),
        ("tags", {"{{.SourceOMI}}": '{{.SourceOMI}}{{"\\x00"}}'}, r"tags\[.*: holds a NUL"),
    ],
)
def test_what_only_the_build_can_see_is_told_before_anything_is_made(
    option: str, value: object, message: str
) -> None:
    with pytest.raises(BuildError, match=message):
        planned("gp2", 0, **{option: value})


def test_accounts_that_are_given_twice_are_permitted_once() -> None:
    twice = ("123456789012", "210987654321", "123456789012")
    made = planned("gp2", 0, omi_account_ids=twice, snapshot_account_ids=twice)
    assert made.image_permissions.account_ids == twice[:2]
    assert made.snapshot_permissions.account_ids == twice[:2]


def test_a_wrapper_is_tried_before_anything_is_made() -> None:
    for wrapper in ('sudo {{.Command}}{{"\\x00"}}', "{{range 9999999}}{{end}}{{.Command}}"):
        with pytest.raises(BuildError, match="^command_wrapper: "):
            plan_wrapper(Config(omi_name="new", command_wrapper=wrapper), Scope())


SIZELESS = {
    "ImageId": "ami-00000001",
    "State": "available",
    "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Bsu": {"SnapshotId": "snap-00000001"}}],
}


def plan_sizeless(config: Config) -> Plan:
    identity = Identity("i-00000001", "eu-west-2a")
    facts = Facts(identity, "eu-west-2", "123456789012", parse_source(SIZELESS))
    return plan_build(config, facts, Late(Scope(), late_data(facts), print))


def test_a_root_whose_size_nobody_knows_takes_the_template_s() -> None:
    with pytest.raises(BuildError, match="source_omi ami-00000001.*snap-00000001. Set root_volume"):
        plan_sizeless(Config(source_omi="ami-00000001", omi_name="new"))
    made = plan_sizeless(Config(source_omi="ami-00000001", omi_name="new", root_volume_size=8))
    assert made.volume.size == made.image.root["Bsu"]["VolumeSize"] == 8
