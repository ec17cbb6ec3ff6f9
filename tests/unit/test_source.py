"""Which OMI a build starts from: ids, filters, owners, dates, and what errors list."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest
from in_process import client

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.localcloud.catalogue import AccountEntry, Catalogue, OmiEntry
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.look import wanted_source
from packer_plugin_osc_chroot.options.blocks import OmiFilter
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.resources.image import parse_source
from packer_plugin_osc_chroot.source import find_source

OWN, VENDOR, CANONICAL = "111111111111", "222222222222", "099720109477"
XENIAL = "ubuntu/images/hvm/ubuntu-xenial-16.04-amd64-server-20260{}"
# What `seed.md`'s own example asks for, `ebs` included.
EXAMPLE = {
    "virtualization-type": "hvm",
    "image-name": "ubuntu/images/*ubuntu-xenial-16.04-amd64-server-*",
    "root-device-type": "ebs",
}


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    disk = tmp_path_factory.mktemp("disks") / "disk.raw"
    disk.write_bytes(bytes(4096))

    def omi(number: int, **more: object) -> OmiEntry:
        date = datetime(2026, 1, number % 27 + 1, tzinfo=UTC)
        given = {"date": date, "public": True, **more}
        return OmiEntry(id=f"ami-{number:08x}", file=str(disk), **given)  # type: ignore[arg-type]

    omis = [
        omi(1, name=XENIAL.format(1), owner="canonical"),
        omi(3, name=XENIAL.format(3), owner="canonical", tags={"os": "ubuntu", "kind": "lts"}),
        omi(2, name=XENIAL.format(2), owner="canonical", tags={"os": "ubuntu", "kind": "x"}),
        omi(4, name=XENIAL.format(4), owner="vendor"),
        omi(5, name="mine", tags={"os": "ubuntu", "kind": "own"}),
        omi(6, name="mine too", architecture="i386"),
        omi(8, name="bracketed", tags={"stage": "[prod] v1?"}),
        omi(7, name="hidden", owner="vendor", public=False),
        *(omi(number, name=f"many {number}", owner="vendor") for number in range(20, 40)),
    ]
    accounts = [
        AccountEntry("localcloud", id=OWN),
        AccountEntry("vendor", id=VENDOR),
        AccountEntry("canonical", id=CANONICAL),
    ]
    with LocalCloud(catalogue=Catalogue(accounts=accounts, omis=omis)) as region:
        yield region
        assert region.defects == []


@pytest.fixture
def find(cloud: LocalCloud) -> Callable[..., str]:
    def ask(
        filters: Mapping[str, str] | None, *owners: str, newest: bool = False, source_omi: str = ""
    ) -> str:
        chosen = None
        if filters is not None:
            chosen = OmiFilter(filters=filters, owners=owners, most_recent=newest)
        wanted = wanted_source(Config(source_omi=source_omi, source_omi_filter=chosen))
        assert wanted is not None
        api = client(cloud)
        found = find_source(api, wanted, account_id=lambda: OWN, token=CancelToken())
        api.close()
        return str(found["ImageId"])

    return ask


Find = Callable[..., str]


def test_an_id_alone_is_any_account_s(find: Find) -> None:
    assert find(None, source_omi="ami-00000004") == "ami-00000004"
    with pytest.raises(BuildError, match="source_omi ami-00000099 does not exist in Region"):
        find(None, source_omi="ami-00000099")


def test_the_newest_by_its_date_and_not_by_its_place(find: Find) -> None:
    assert find(EXAMPLE, CANONICAL, newest=True) == "ami-00000003"


@pytest.mark.parametrize(
    ("owners", "found"),
    [
        (("vendor",), "ami-00000004"),
        ((VENDOR,), "ami-00000004"),
        (("vendor", CANONICAL), "ami-00000004"),
        ((VENDOR, "canonical"), "ami-00000004"),
        (("canonical", "self"), "ami-00000003"),
    ],
)
def test_owners_are_ids_and_aliases_and_one_must_match(
    find: Find, owners: tuple[str, ...], found: str
) -> None:
    assert find(EXAMPLE, *owners, newest=True) == found


def test_self_is_this_account(find: Find) -> None:
    assert find({"architecture": "i386"}, "self") == "ami-00000006"


def test_self_where_the_account_is_not_known(cloud: LocalCloud) -> None:
    wanted = wanted_source(Config(source_omi_filter=OmiFilter(filters={}, owners=("self",))))
    assert wanted is not None
    with pytest.raises(BuildError, match='owners: "self" is not known.*ReadAccounts'):
        find_source(client(cloud), wanted, account_id=lambda: "", token=CancelToken())


def test_all_tags_must_be_there(find: Find) -> None:
    tags = {"tag:os": "ubuntu", "tag:kind": "l*"}
    assert find(tags, CANONICAL, "self") == "ami-00000003"


def test_only_a_star_is_special_in_a_tag(find: Find) -> None:
    for value in ("[prod] v1?", "[prod]*", "*?"):
        assert find({"tag:stage": value}, "self") == "ami-00000008"
    for value in ("[prod] v??", "p*"):
        with pytest.raises(BuildError, match="no OMI in Region"):
            find({"tag:stage": value}, "self")


def test_both_spellings_of_a_filter(find: Find) -> None:
    assert find({"ImageNames": "mine"}, "self") == find({"name": "mine"}, "self") == "ami-00000005"


def test_a_filter_by_owner_joins_the_owners(find: Find) -> None:
    assert find({**EXAMPLE, "owner-alias": "vendor"}, VENDOR, CANONICAL) == "ami-00000004"
    with pytest.raises(BuildError, match="no OMI in Region"):
        find({**EXAMPLE, "owner-id": OWN}, CANONICAL)


def test_source_omi_pins_what_the_filter_finds(find: Find) -> None:
    assert find(EXAMPLE, CANONICAL, source_omi="ami-00000001") == "ami-00000001"
    with pytest.raises(BuildError, match="ami-00000005 does not satisfy it") as caught:
        find(EXAMPLE, CANONICAL, source_omi="ami-00000005")
    assert 'ami-00000005 "mine", 2026-01-06' in caught.value.details[0]
    assert "localcloud" in caught.value.details[0]
    with pytest.raises(BuildError, match="source_omi ami-00000099 does not exist"):
        find(EXAMPLE, CANONICAL, source_omi="ami-00000099")
    assert find({"image-id": "ami-00000001"}, CANONICAL) == "ami-00000001"
    with pytest.raises(BuildError, match="ami-00000001 does not satisfy"):
        find({"image-id": "ami-00000003"}, CANONICAL, source_omi="ami-00000001")


def test_several_are_listed_newest_first_and_not_all_of_many(find: Find) -> None:
    with pytest.raises(BuildError, match="3 OMIs match, expected one.*most_recent") as caught:
        find(EXAMPLE, CANONICAL)
    assert [line.split()[0] for line in caught.value.details] == [
        "ami-00000003",
        "ami-00000002",
        "ami-00000001",
    ]
    assert "2026-01-04" in caught.value.details[0] and "xenial" in caught.value.details[0]
    with pytest.raises(BuildError, match="20 OMIs match") as caught:
        find({"name": "many *"}, "vendor")
    assert len(caught.value.details) == 11 and caught.value.details[-1] == "and 10 more"


def test_none_lists_what_the_owners_have(find: Find) -> None:
    with pytest.raises(BuildError, match="source_omi_filter: no OMI in Region.* matches") as caught:
        find({"name": "nonesuch"}, CANONICAL)
    assert caught.value.details[0] == f"OMIs of {CANONICAL}:"
    assert "ami-00000003" in caught.value.details[1]
    with pytest.raises(BuildError) as caught:
        find({}, "nobody")
    assert caught.value.details == ("nobody: no OMI is shown at all",)


def test_several_pages_are_one_answer(find: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "packer_plugin_osc_chroot.localcloud.assumptions.DEFAULT_RESULTS_PER_PAGE", 7
    )
    with pytest.raises(BuildError, match="20 OMIs match"):
        find({"name": "many *"}, "vendor")


def test_what_is_not_available_is_no_match(cloud: LocalCloud, find: Find, tmp_path: Path) -> None:
    assert find({"name": "mine*", "state": "available", "architecture": "x86_64"}, "self")
    with pytest.raises(BuildError, match="no OMI"):
        find({"name": "mine", "state": "pending"}, "self")


@pytest.mark.parametrize(("shown", "size"), [(10, 10), (10 << 30, 10), (14_901, 14_901)])
def test_a_size_that_is_shown_in_bytes(shown: int, size: int) -> None:
    bsu = {"SnapshotId": "snap-1", "VolumeSize": shown, "VolumeType": "gp2"}
    mapping = {"DeviceName": "/dev/sda1", "Bsu": bsu}
    image = {"ImageId": "ami-1", "State": "available", "BlockDeviceMappings": [mapping]}
    source = parse_source(image)
    assert source.size == source.root["Bsu"]["VolumeSize"] == size
