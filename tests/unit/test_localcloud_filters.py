"""Filters and pages."""

import pytest

from packer_plugin_osc_chroot.localcloud import filters
from packer_plugin_osc_chroot.localcloud.errors import ApiError
from packer_plugin_osc_chroot.localcloud.openapi import Json


def image(name: str, **more: object) -> Json:
    return {"ImageName": name, "Tags": [], **more}


IMAGES: list[Json] = [
    image("debian 12 (a)", Tags=[{"Key": "os", "Value": "debian"}], State="available"),
    image("debian [b].1", State="pending", SecureBoot=False),
    image("ubuntu", BootModes=["uefi", "legacy"], SecureBoot=True),
]


def names(**wanted: object) -> list[str]:
    return [found["ImageName"] for found in filters.select(IMAGES, wanted, filters.IMAGES)]


def test_no_filter_selects_all() -> None:
    assert len(names()) == 3


def test_values_are_alternatives_and_filters_add_up() -> None:
    assert names(ImageNames=["ubuntu", "debian [b].1"]) == ["debian [b].1", "ubuntu"]
    assert names(ImageNames=["ubuntu", "debian [b].1"], States=["pending"]) == ["debian [b].1"]
    assert names(ImageNames=[]) == []


def test_wildcards() -> None:
    assert names(ImageNames=["debian*"]) == ["debian 12 (a)", "debian [b].1"]
    assert names(ImageNames=["*[b]*"]) == ["debian [b].1"]
    assert names(ImageNames=["debian [b]?1"]) == []
    assert names(ImageNames=["ebian"]) == []


def test_lists_booleans_and_tags() -> None:
    assert names(BootModes=["uefi"]) == ["ubuntu"]
    assert names(SecureBoot=False) == ["debian [b].1"]
    assert names(TagKeys=["os"]) == ["debian 12 (a)"]
    assert names(Tags=["os=deb*"]) == ["debian 12 (a)"]
    assert names(Tags=["os=ubuntu"]) == []
    assert names(ProductCodeNames=["Linux"]) == []


def test_what_is_the_same_for_all() -> None:
    assert len(names(Hypervisors=["xen"], VirtualizationTypes=["hvm"])) == 3
    assert names(VirtualizationTypes=["paravirtual"]) == []


def test_numbers_and_dates() -> None:
    views: list[Json] = [{"VolumeSize": 1, "CreationDate": "2026-01-02T00:00:00.000Z"}]

    def found(**wanted: object) -> bool:
        return filters.select(views, wanted, filters.SNAPSHOTS) == views

    assert found(VolumeSizes=[2, 1])
    assert not found(VolumeSizes=[2])
    assert found(FromCreationDate="2026-01-01", ToCreationDate="2026-01-03T00:00:00Z")
    assert not found(FromCreationDate="2026-01-02T00:00:01.000Z")
    with pytest.raises(ApiError, match="FromCreationDate"):
        found(FromCreationDate="yesterday")


def test_pages() -> None:
    views: list[Json] = [{"n": n} for n in range(5)]
    seen: list[Json] = []
    following: Json = {}
    pages = 0
    while pages == 0 or following:
        found, following = filters.page(views, {"ResultsPerPage": 2, **following})
        seen += found
        pages += 1
    assert (seen, pages) == (views, 3)


def test_default_page_is_bounded() -> None:
    views: list[Json] = [{"n": n} for n in range(101)]
    found, following = filters.page(views, {})
    assert len(found) == 100
    assert filters.page(views, following) == ([{"n": 100}], {})


@pytest.mark.parametrize(
    "parameters", [{"ResultsPerPage": 0}, {"ResultsPerPage": 1001}, {"NextPageToken": "?"}]
)
def test_bad_pages(parameters: Json) -> None:
    with pytest.raises(ApiError):
        filters.page([], parameters)
