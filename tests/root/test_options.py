"""Each option of the build does what it says; a test here fails when its option is ignored."""

import dataclasses
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from in_process import OPTIONS, SOURCE, Provisioner, assert_nothing_left, run

from packer_plugin_osc_chroot import provision
from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.context import Communicator
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.host.mountinfo import read_mounts
from packer_plugin_osc_chroot.journal.directory import STATE_VARIABLE
from packer_plugin_osc_chroot.localcloud import assumptions
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.images import tiny_image
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.resources import link
from packer_plugin_osc_chroot.ui import RecordingUi

pytestmark = pytest.mark.root

Look = Callable[[Communicator, Mapping[str, str]], None]


def nothing(communicator: Communicator, data: Mapping[str, str]) -> None:
    """For builds that are not looked into while they run."""


def build(
    cloud: LocalCloud, *, look: Look = nothing, ui: RecordingUi | None = None, **options: Any
) -> RecordingUi:
    """A build with these options; `look` sees the inside while provisioners run."""
    looked: list[bool] = []

    def looking(communicator: Communicator, data: Mapping[str, str]) -> None:
        look(communicator, data)
        looked.append(True)

    given = ui or RecordingUi()
    config = dataclasses.replace(OPTIONS, **options)
    run(cloud, config=config, ui=given, provisioner=Provisioner(look=looking))
    assert looked
    assert_nothing_left(cloud)
    return given


def content(communicator: Communicator, path: str) -> str:
    chunks = communicator.files.download(path, token=CancelToken())
    return b"".join(chunks).decode()


def test_mount_path_and_mount_options(tmp_path: Path) -> None:
    def look(communicator: Communicator, data: Mapping[str, str]) -> None:
        assert data["MountPath"] == f"{tmp_path}/root of {Path(data['Device']).name}"
        line = subprocess.run(
            ["findmnt", "--noheadings", "--output", "OPTIONS", data["MountPath"]],
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        assert {"noatime", "nodev", "nosuid"} <= set(line.strip().split(","))

    with LocalCloud() as cloud:
        build(
            cloud,
            look=look,
            mount_path=f"{tmp_path}/root of {{{{.Device}}}}",
            mount_options=("noatime", "nodev,nosuid"),
            post_mount_commands=(),
        )
    assert list(tmp_path.iterdir()) == []


def test_mount_partition_0_is_the_whole_disk(tmp_path: Path) -> None:
    image = tmp_path / "whole.raw"
    subprocess.run(["mkfs.ext4", "-q", image, "64M"], check=True)
    with LocalCloud(source_omis={SOURCE: image}) as cloud:
        build(cloud, mount_partition="0")


def test_a_disk_without_partitions_is_mounted_whole_where_none_is_asked_for(tmp_path: Path) -> None:
    image = tmp_path / "whole.raw"
    subprocess.run(["mkfs.ext4", "-q", image, "64M"], check=True)
    with LocalCloud(source_omis={SOURCE: image}) as cloud:
        build(cloud)


def test_a_digit_appended_to_a_disk_whose_name_ends_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provision, "digit_warning", lambda option, *_: f"warning: {option}")
    with LocalCloud() as cloud:
        ui = build(cloud)
    assert "warning: pre_mount_commands" in ui.text
    assert "warning: post_mount_commands" in ui.text


def test_a_partition_that_is_not_there_is_named_with_those_that_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("packer_plugin_osc_chroot.host.partitions._PARTITION_SECONDS", 1.0)
    with LocalCloud() as cloud:
        with pytest.raises(BuildError, match="has no partition 7") as caught:
            run(cloud, config=dataclasses.replace(OPTIONS, mount_partition="7"))
        assert "/dev/xvd" in caught.value.details[0]
        assert "mount_partition" in caught.value.hint
        assert_nothing_left(cloud)


def test_a_partition_made_by_pre_mount_commands() -> None:
    commands = (
        "parted -s {{.Device}} mklabel msdos mkpart primary ext4 1MiB 40MiB"
        " mkpart primary ext4 40MiB 100%",
        "until test -b {{.Device}}2; do sleep 0.1; done; mkfs.ext4 -q -F {{.Device}}2",
    )
    with LocalCloud() as cloud:
        build(cloud, pre_mount_commands=commands, mount_partition="2")


def test_chroot_mounts() -> None:
    def look(communicator: Communicator, data: Mapping[str, str]) -> None:
        inside = [
            mount.mount_point.removeprefix(data["MountPath"])
            for mount in read_mounts()
            if mount.mount_point.startswith(data["MountPath"])
        ]
        assert inside == ["", "/proc", "/mnt"]

    mounts = (("proc", "proc", "/proc"), ("bind", "/usr/share", "/mnt"))
    with LocalCloud() as cloud:
        build(cloud, look=look, chroot_mounts=mounts)


def test_default_chroot_mounts() -> None:
    def look(communicator: Communicator, data: Mapping[str, str]) -> None:
        points = [mount.mount_point for mount in read_mounts()]
        for name in ("proc", "sys", "dev", "dev/pts"):
            assert f"{data['MountPath']}/{name}" in points

    with LocalCloud() as cloud:
        build(cloud, look=look)


def test_copy_files(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc" / "resolv.conf").write_text("the image's own\n")
    image = tiny_image(tmp_path / "image.raw", tree=tree)

    def look(communicator: Communicator, data: Mapping[str, str]) -> None:
        assert content(communicator, "/etc/resolv.conf") == Path("/etc/resolv.conf").read_text()

    def look_without(communicator: Communicator, data: Mapping[str, str]) -> None:
        assert content(communicator, "/etc/resolv.conf") == "the image's own\n"

    with LocalCloud(source_omis={SOURCE: image}) as cloud:
        build(cloud, look=look)
        build(cloud, look=look_without, copy_files=(), omi_name="without")


def test_command_wrapper(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with LocalCloud() as cloud:
        build(
            cloud,
            command_wrapper=f"echo wrapped >>{log}; {{{{.Command}}}}",
            pre_mount_commands=("echo '{{.Device}}' >" + str(tmp_path / "device"),),
        )
    # mount, its directory, five chroot_mounts, the agent, the commands, the unmounts.
    assert log.read_text().count("wrapped\n") > 10
    assert (tmp_path / "device").read_text().startswith("/dev/xvd")


def test_a_command_wrapper_that_prints_on_standard_output_is_named() -> None:
    with LocalCloud() as cloud:
        with pytest.raises(BuildError, match="command_wrapper prints on standard output.*NOISE"):
            run(
                cloud,
                config=dataclasses.replace(OPTIONS, command_wrapper="echo NOISE; {{.Command}}"),
            )
        assert_nothing_left(cloud)


def test_a_mount_that_fails_says_why() -> None:
    with LocalCloud() as cloud:
        with pytest.raises(
            BuildError, match="mount: .*(wrong fs type|bad option|Unknown parameter)"
        ):
            run(cloud, config=dataclasses.replace(OPTIONS, mount_options=("nonsense",)))
        assert_nothing_left(cloud)


def test_device_path() -> None:
    with LocalCloud() as cloud:
        build(cloud, device_path="/dev/xvdq")
        links = [call.parameters for call in cloud.record if call.action == "LinkVolume"]
        assert [link["DeviceName"] for link in links if not link.get("DryRun")] == ["/dev/xvdq"]


def test_a_device_path_that_is_taken() -> None:
    def look(communicator: Communicator, data: Mapping[str, str]) -> None:
        config = dataclasses.replace(OPTIONS, device_path="/dev/xvdq", omi_name="second")
        with pytest.raises(BuildError, match="LinkVolume"):
            run(cloud, config=config)

    with LocalCloud() as cloud:
        build(cloud, look=look, device_path="/dev/xvdq")


def test_a_full_vm_is_said_to_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its own root volume counts.
    monkeypatch.setattr(assumptions, "MAX_VOLUMES_PER_VM", 1)
    monkeypatch.setattr(link, "VM_VOLUMES", 1)
    with LocalCloud() as cloud:
        with pytest.raises(BuildError, match="holds 1 volumes, and no VM holds more") as caught:
            run(cloud)
        assert caught.value.details == ("linked: /dev/sda1",)
        assert_nothing_left(cloud)


def test_the_region_from_the_metadata() -> None:
    with LocalCloud() as cloud:
        environ = {key: value for key, value in cloud.environment().items() if key != "OSC_REGION"}
        result = run(cloud, environ=environ)
        assert result.region == cloud.environment()["OSC_REGION"]


def test_keys_and_endpoint_from_the_template() -> None:
    with LocalCloud() as cloud:
        there = cloud.environment()
        config = dataclasses.replace(
            OPTIONS,
            access_key=there["OSC_ACCESS_KEY"],
            secret_key=there["OSC_SECRET_KEY"],
            region=there["OSC_REGION"],
            custom_endpoint_oapi=cloud.url,
        )
        environ = {"OSC_CHROOT_METADATA_URL": cloud.url, "HOME": "/"}
        run(cloud, config=config, environ=environ | {STATE_VARIABLE: there[STATE_VARIABLE]})
        assert len(cloud.images()) == 1


def test_root_volume_type() -> None:
    with LocalCloud() as cloud:
        build(cloud, root_volume_type="gp2")
        (image,) = cloud.images()
        assert image.mappings[0]["Bsu"]["VolumeType"] == "gp2"
        created = [call for call in cloud.record if call.action == "CreateVolume"]
        assert {"gp2"} == {
            call.parameters["VolumeType"] for call in created if not call.parameters.get("DryRun")
        }


LATE: tuple[tuple[str, Any], ...] = (
    ("tags", {"a": "{{.Nope}}"}),
    ("omi_description", "{{.Nope}}"),
    ("mount_path", "/mnt/{{.Nope}}"),
    ("pre_mount_commands", ("{{.Nope}}",)),
)


@pytest.mark.parametrize(("option", "value"), LATE)
def test_late_templates_that_fail_say_which_option(option: str, value: Any) -> None:
    with LocalCloud() as cloud:
        with pytest.raises(BuildError, match=f"^{option}.*Nope"):
            run(cloud, config=dataclasses.replace(OPTIONS, **{option: value}))
        assert_nothing_left(cloud)
        assert cloud.images() == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("pre_mount_commands", ("true", "echo no; exit 3")),
        ("post_mount_commands", ("echo no; exit 3",)),
        ("chroot_mounts", (("no-such-fs", "x", "/mnt"),)),
    ],
)
def test_a_command_that_fails_says_which_option_it_is_of(option: str, value: Any) -> None:
    with LocalCloud() as cloud:
        with pytest.raises(BuildError, match=f"^{option}: `.*failed with status"):
            run(cloud, config=dataclasses.replace(OPTIONS, **{option: value}))
        assert_nothing_left(cloud)


def test_a_root_volume_that_is_too_small(tmp_path: Path) -> None:
    image = tiny_image(tmp_path / "image.raw", size=2 << 30)
    config = Config(source_omi=SOURCE, omi_name="too small", root_volume_size=1)
    with LocalCloud(source_omis={SOURCE: image}) as cloud:
        with pytest.raises(BuildError, match="root_volume_size: 1 GiB is smaller"):
            run(cloud, config=config)
