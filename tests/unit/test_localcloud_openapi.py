"""The official document, its cache, and the checks made from it."""

import json
from pathlib import Path

import pytest

from packer_plugin_osc_chroot.localcloud import assumptions, filters, openapi
from packer_plugin_osc_chroot.localcloud.openapi import Document, Json, load_document
from packer_plugin_osc_chroot.localcloud.server import ACTIONS, PUBLIC_ACTIONS


@pytest.fixture(scope="module")
def document() -> Document:
    return load_document()


def kinds(document: Document, action: str, body: object) -> list[tuple[str, str]]:
    return [(p.kind, p.path) for p in document.check_request(action, body)]


def test_actions_are_official(document: Document) -> None:
    assert set(ACTIONS) | set(PUBLIC_ACTIONS) <= document.actions
    assert set(PUBLIC_ACTIONS) <= document.unsigned_actions
    assert not set(ACTIONS) & document.unsigned_actions


def test_good_request(document: Document) -> None:
    body = {"SubregionName": "eu-west-2a", "Size": 10, "ClientToken": "t"}
    assert kinds(document, "CreateVolume", body) == []


@pytest.mark.wrong_requests
def test_bad_requests(document: Document) -> None:
    assert kinds(document, "CreateVolume", {}) == [("missing", "SubregionName")]
    assert kinds(document, "DeleteVolume", {"VolumeId": 5}) == [("type", "VolumeId")]
    assert kinds(document, "DeleteVolume", {"VolumeId": "v", "Force": True}) == [("unknown", "")]
    assert kinds(document, "ReadVolumes", {"Filters": {"Name": ["x"]}}) == [("unknown", "Filters")]
    assert kinds(document, "ReadVolumes", {"Filters": {"VolumeIds": "v"}}) == [
        ("type", "Filters.VolumeIds")
    ]
    assert kinds(document, "CreateVolume", {"SubregionName": "a", "Size": True}) == [
        ("type", "Size")
    ]


def test_nullable_properties_take_null(document: Document) -> None:
    body = {"Volumes": [{"TaskId": None, "VolumeId": "vol-1"}]}
    assert document.check_response("ReadVolumes", body) == []
    body = {"Volumes": [{"TaskId": None, "VolumeId": None}]}
    assert [p.path for p in document.check_response("ReadVolumes", body)] == ["Volumes.0.VolumeId"]


@pytest.mark.parametrize(
    ("volume", "path"),
    [
        ({"Colour": "red"}, "Volumes.0"),
        ({"Size": "1"}, "Volumes.0.Size"),
        ({"CreationDate": "yesterday"}, "Volumes.0.CreationDate"),
        ({"CreationDate": "2026-01-31"}, "Volumes.0.CreationDate"),
    ],
)
def test_bad_answers(document: Document, volume: Json, path: str) -> None:
    found = document.check_response("ReadVolumes", {"Volumes": [volume]})
    assert [problem.path for problem in found] == [path]
    (token,) = document.check_response("ReadVolumes", {"NextPageToken": "#"})
    assert token.path == "NextPageToken"


@pytest.mark.parametrize(
    ("schema", "paths"),
    [
        ("FiltersVolume", filters.VOLUMES),
        ("FiltersSnapshot", filters.SNAPSHOTS),
        ("FiltersImage", filters.IMAGES),
        ("FiltersSubregion", filters.SUBREGIONS),
        ("FiltersTag", filters.TAGS),
        ("FiltersVmsState", filters.VM_STATES),
        ("FiltersReadVolumeUpdateTask", filters.VOLUME_UPDATES),
    ],
)
def test_every_official_filter_is_applied(
    document: Document, schema: str, paths: filters.Paths
) -> None:
    assert set(paths) == document.properties(schema)


def test_vm_filters_are_official(document: Document) -> None:
    # The others are about things that this VM does not have, and match nothing.
    assert set(filters.VMS) <= document.properties("FiltersVm")


def test_assumed_errors_are_not_in_the_official_list(document: Document) -> None:
    assert not set(assumptions.ERRORS) & set(document.errors)
    assert document.errors["no-such-volume"] == ("5064", "InvalidResource")


def test_document_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = load_document()
    (cached,) = (tmp_path / "packer-plugin-osc-chroot").iterdir()
    monkeypatch.setattr(openapi, "_parse", None)  # Calling it would fail.
    assert load_document() == first
    cached.write_text("{")
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert load_document() == first
    assert json.loads(cached.read_text())["version"] == first.version


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load_document().actions


def test_bundled_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "outscale.json"
    assert openapi.main([str(target)]) == 0
    assert set(json.loads(target.read_text())["actions"]) == load_document().actions
    assert openapi.main([]) == 2
    assert "usage" in capsys.readouterr().err
