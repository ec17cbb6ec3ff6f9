"""What is decided from options and facts, before anything is made."""

import pytest

from packer_plugin_osc_chroot.cloud.metadata import Identity
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.look import Facts
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.plan import Late, Plan, late_data, plan_build
from packer_plugin_osc_chroot.resources.image import parse_source
from packer_plugin_osc_chroot.template.engine import Scope

SIZELESS = {
    "ImageId": "ami-00000001",
    "State": "available",
    "BlockDeviceMappings": [{"DeviceName": "/dev/sda1", "Bsu": {"SnapshotId": "snap-00000001"}}],
}


def plan(config: Config) -> Plan:
    identity = Identity("i-00000001", "eu-west-2a")
    facts = Facts(identity, "eu-west-2", "123456789012", parse_source(SIZELESS))
    return plan_build(config, facts, Late(Scope(), late_data(facts), print))


def test_a_root_whose_size_nobody_knows_takes_the_template_s() -> None:
    with pytest.raises(BuildError, match="source_omi ami-00000001.*snap-00000001. Set root_volume"):
        plan(Config(source_omi="ami-00000001", omi_name="new"))
    planned = plan(Config(source_omi="ami-00000001", omi_name="new", root_volume_size=8))
    assert planned.volume.size == planned.image.root["Bsu"]["VolumeSize"] == 8
