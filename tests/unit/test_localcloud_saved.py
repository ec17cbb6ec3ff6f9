"""What a state directory holds, and what is said where it cannot be used."""

from pathlib import Path

import pytest

from packer_plugin_osc_chroot.localcloud import saved
from packer_plugin_osc_chroot.localcloud.saved import ForeignData, Saved, StateError, UsedToken
from packer_plugin_osc_chroot.localcloud.state import (
    Account,
    Image,
    Link,
    Permissions,
    Snapshot,
    Vm,
    Volume,
)


def example() -> Saved:
    account = Account("000000000001", "localcloud", access_key="AK", secret_key="SK")
    vm = Vm(vm_id="i-1", account_id=account.account_id, subregion="eu-west-2a", image_id="ami-0")
    link = Link(vm_id="i-1", device_name="/dev/xvdf", slot="xvdf", state="attached")
    volume = Volume(
        volume_id="vol-1",
        account_id=account.account_id,
        subregion="eu-west-2a",
        size=1,
        volume_type="gp2",
        iops=100,
        tags={"Name": "é"},
        link=link,
    )
    snapshot = Snapshot(
        snapshot_id="snap-1",
        account_id=account.account_id,
        account_alias=account.alias,
        size=1,
        permissions=Permissions(account_ids=["123456789012"], everybody=True),
    )
    image = Image(
        image_id="ami-1",
        account_id=account.account_id,
        account_alias=account.alias,
        name="made",
        mappings=[{"DeviceName": "/dev/sda1", "Bsu": {"SnapshotId": "snap-1"}}],
        root_device_name="/dev/sda1",
    )
    return Saved(
        accounts=[account],
        vm=vm,
        root_volume_id="vol-0",
        volumes={"vol-1": volume},
        snapshots={"snap-1": snapshot},
        images={"ami-1": image},
        source_ids=["ami-1"],
        tokens=[UsedToken(account.account_id, "CreateVolume", "t", {"Size": 1}, "vol-1")],
        foreign={"snap-1": ForeignData(path="/images/debian.raw", size=5, modified=7)},
    )


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    assert saved.read(tmp_path) is None
    written = example()
    saved.write(tmp_path, saved.dump(written))
    assert saved.read(tmp_path) == written


def test_only_its_owner_reads_the_keys(tmp_path: Path) -> None:
    saved.write(tmp_path, saved.dump(example()))
    assert (tmp_path / "region.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "is of format None"),
        ('{"format": 99}', "is of format 99, this version reads 1"),
        ('{"format": 1, "accounts": 5}', "is not what was saved"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "region.json").write_text(text)
    with pytest.raises(StateError, match=said) as caught:
        saved.read(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_directory_is_opened_once(tmp_path: Path) -> None:
    directory = tmp_path / "region"
    with saved.opened(directory):
        with pytest.raises(StateError, match="another localcloud has it open"):
            with saved.opened(directory):
                pass
    with saved.opened(directory):
        pass


def test_a_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(StateError, match=f"{file}: "):
        with saved.opened(file):
            pass
