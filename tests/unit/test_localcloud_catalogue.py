"""The catalogue: what a Region has from the start, and what is said of a file that is wrong."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from osc_sdk_python.call import Call
from osc_sdk_python.credentials import Endpoint

from packer_plugin_osc_chroot.localcloud.catalogue import Catalogue, load_catalogue
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.images import tiny_image
from packer_plugin_osc_chroot.localcloud.toml_file import FileError

GOOD = """
[[accounts]]
alias = "builders"

[accounts.quotas]
volumes = 3
volumes_gib = 15

[[accounts]]
alias = "vendor"
id = "123456789012"
access_key = "VENDOR"
secret_key = "SECRET"

[[omis]]
id = "ami-11111111"
file = "disk.raw"
name = "Debian 12 (2026-01)"
description = "of January"
owner = "vendor"
date = 2026-01-31
public = true
tags = { os = "debian" }

[[omis]]
id = "ami-22222222"
file = "disk.raw"
name = "Debian 12 (2026-02)"
owner = "vendor"
date = 2026-02-28T10:00:00Z
shared_with = ["builders"]

[[omis]]
id = "ami-33333333"
file = "disk.raw"
owner = "123456789012"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_image(tmp_path / "disk.raw")
    return tmp_path


def written(folder: Path, text: str) -> Path:
    file = folder / "catalogue.toml"
    file.write_text(text)
    return file


def caller(cloud: LocalCloud, *, keys: tuple[str, str] | None = None) -> Call:
    environment = cloud.environment()
    access_key, secret_key = keys or (
        environment["OSC_ACCESS_KEY"],
        environment["OSC_SECRET_KEY"],
    )
    return Call(
        max_retries=0,
        access_key=access_key,
        secret_key=secret_key,
        region=environment["OSC_REGION"],
        endpoints=Endpoint(api=environment["OSC_ENDPOINT_API"]),
    )


def test_what_it_names_is_there(folder: Path) -> None:
    catalogue = load_catalogue(written(folder, GOOD))
    assert catalogue.omis[0].date == datetime(2026, 1, 31, tzinfo=UTC)
    with LocalCloud(catalogue=catalogue) as cloud:
        call = caller(cloud)
        images = call.api("ReadImages", Filters={"AccountAliases": ["vendor"]})["Images"]
        assert [image["ImageId"] for image in images] == ["ami-11111111", "ami-22222222"]
        assert images[0]["CreationDate"] == "2026-01-31T00:00:00.000Z"
        assert images[0]["Tags"] == [{"Key": "os", "Value": "debian"}]
        assert images[0]["Description"] == "of January"
        named = call.api("ReadImages", Filters={"ImageNames": ["Debian 12 (*-02)"]})["Images"]
        assert [image["ImageId"] for image in named] == ["ami-22222222"]
        vendor = caller(cloud, keys=("VENDOR", "SECRET"))
        assert len(vendor.api("ReadImages")["Images"]) == 3


def test_a_shared_omis_snapshot_can_be_used(folder: Path) -> None:
    with LocalCloud(catalogue=load_catalogue(written(folder, GOOD))) as cloud:
        call = caller(cloud)
        (image,) = call.api("ReadImages", Filters={"ImageIds": ["ami-22222222"]})["Images"]
        snapshot_id = image["BlockDeviceMappings"][0]["Bsu"]["SnapshotId"]
        for _ in range(2):
            call.api("CreateVolume", SubregionName=cloud.subregion, SnapshotId=snapshot_id)


def test_quotas_hold(folder: Path) -> None:
    # The VM's own volume of 10 GiB counts.
    with LocalCloud(catalogue=load_catalogue(written(folder, GOOD))) as cloud:
        call = caller(cloud)

        def create(size: int) -> None:
            call.api("CreateVolume", SubregionName=cloud.subregion, Size=size)

        with pytest.raises(Exception, match="code = 10024"):
            create(6)
        create(1)
        create(2)
        with pytest.raises(Exception, match="code = 10018"):
            create(1)
        (kind,) = call.api("ReadQuotas", Filters={"QuotaNames": ["volumes*"]})["QuotaTypes"]
        found = {each["Name"]: (each["UsedValue"], each["MaxValue"]) for each in kind["Quotas"]}
        assert found == {"volumes": (3, 3), "volumes_gib": (13, 15)}
        assert call.api("ReadQuotas", Filters={"QuotaTypes": ["vol-1"]})["QuotaTypes"] == []


def test_without_accounts_there_is_one() -> None:
    assert [account.alias for account in Catalogue().accounts] == ["localcloud"]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ('owner = "vendor"', 'owner = "nobody"', "there is no account nobody"),
        ('"ami-11111111"', '"snap-1"', "must be of the form ami-12345678"),
        ('"ami-11111111"', '"ami-22222222"', "id is that of another OMI"),
        ('"disk.raw"', '"no.raw"', "no.raw: No such file"),
        ("volumes = 3", "volumes = -2", "quota volumes is -2"),
        ("volumes = 3", 'volumes = "2"', 'expected a whole number, found "2"'),
        ("volumes = 3", "volumes = true", "expected a whole number, found true"),
        ("volumes = 3", "discs = 2", "there is no discs here (there are: running_snapshots"),
        ("public = true", 'public = "yes"', "expected true or false"),
        ("date = 2026-01-31", 'date = "yesterday"', "expected a date"),
        ('id = "123456789012"', 'id = "12"', "must have 12 digits"),
        ('secret_key = "SECRET"', "", "needs both access_key and secret_key"),
        ('alias = "vendor"', 'alias = "builders"', "alias is that of another account"),
        ('name = "Debian 12 (2026-01)"', 'name = "a"', "3 to 128 letters"),
        ("[[omis]]", "[[omi]]", "there is no omi here"),
        ("[[omis]]", "[[omis]", "is not TOML"),
        ('alias = "builders"', "", "accounts[0].alias: is missing"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(folder: Path, before: str, after: str, said: str) -> None:
    assert before in GOOD
    file = written(folder, GOOD.replace(before, after, 1))
    with pytest.raises(FileError) as caught:
        load_catalogue(file)
    text = str(caught.value)
    assert said in text and text.startswith(f"{file}: ") and "\n" not in text
