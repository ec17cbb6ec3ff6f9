"""The filters of source_omi_filter against the official API document, and their older spellings."""

from importlib import resources
from typing import Any

import pytest
import yaml

from packer_plugin_osc_chroot.options.filters import (
    API_FILTERS,
    FilterProblem,
    Shape,
    api_filter,
    api_filters,
    repeated_filter,
    wanted_tags,
)


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """FiltersImage's properties; the whole document takes seconds to parse."""
    text = (resources.files("osc_sdk_python") / "resources" / "outscale.yaml").read_text()
    start = text.index("    FiltersImage:\n")
    end = text.index("\n    FiltersInternetService:\n")
    properties = yaml.safe_load(text[start:end])["FiltersImage"]["properties"]
    assert isinstance(properties, dict)
    return properties


def test_they_are_the_documents(document: dict[str, Any]) -> None:
    assert {each.name for each in API_FILTERS} == set(document)
    for each in API_FILTERS:
        shown = document[each.name]
        items = shown.get("items", {})
        expected = {
            "boolean": Shape.BOOLEAN,
            "integer": Shape.INTEGERS,
        }.get(items.get("type") or shown["type"], Shape.STRINGS)
        assert each.shape is expected, each.name


def test_the_documents_choices_are_known(document: dict[str, Any]) -> None:
    for each in API_FILTERS:
        for choice in each.choices:
            known = document[each.name]["description"] + str(document[each.name].get("items", ""))
            assert choice in known or each.name == "BootModes"


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("image-name", "ubuntu/*", ("ImageNames", ["ubuntu/*"])),
        ("name", "a", ("ImageNames", ["a"])),
        ("virtualization-type", "hvm", ("VirtualizationTypes", ["hvm"])),
        ("root-device-type", "ebs", ("RootDeviceTypes", ["bsu"])),
        ("RootDeviceTypes", "bsu", ("RootDeviceTypes", ["bsu"])),
        ("owner-alias", "Outscale", ("AccountAliases", ["Outscale"])),
        ("owner-id", "123456789012", ("AccountIds", ["123456789012"])),
        ("architecture", "x86_64", ("Architectures", ["x86_64"])),
        ("architecture", "*", ("Architectures", ["*"])),
        ("is-public", "true", ("PermissionsToLaunchGlobalPermission", True)),
        ("SecureBoot", "False", ("SecureBoot", False)),
        ("block-device-mapping.volume-size", "10", ("BlockDeviceMappingVolumeSizes", [10])),
        ("tag:Name", "web=1", ("Tags", ["Name=web=1"])),
        ("tag:Name", "", ("Tags", ["Name="])),
        ("tag-key", "Name", ("TagKeys", ["Name"])),
    ],
)
def test_translation(name: str, value: str, expected: tuple[str, Any]) -> None:
    assert api_filter(name, value) == expected


def test_all_at_once() -> None:
    filters = {"tag:a": "1", "tag:b": "2*", "name": "x", "TpmMandatory": "true"}
    assert api_filters(filters) == {
        "Tags": ["a=1", "b=2*"],
        "ImageNames": ["x"],
        "TpmMandatory": True,
    }
    assert wanted_tags(filters) == {"a": "1", "b": "2*"}
    with pytest.raises(FilterProblem, match="unknown filter"):
        api_filters({"nope": "x"})


def test_two_names_of_one_filter() -> None:
    assert repeated_filter({"tag:a": "1", "tag:b": "2", "image-name": "x"}) is None
    problem = repeated_filter({"image-name": "x", "name": "y"})
    assert problem == '"image-name" and "name" are the same filter; give one of them'
