"""Data sources: their tables, the service of the contract, and what they make of the API's answers."""

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import grpc_testing
import pytest

from packer_plugin_osc_chroot import generate
from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.contract import plugin_pb2 as pb
from packer_plugin_osc_chroot.data_source import evaluate, parse_omi
from packer_plugin_osc_chroot.errors import BuildError, Cancelled
from packer_plugin_osc_chroot.localcloud.catalogue import AccountEntry, Catalogue, OmiEntry
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.trouble import Trouble
from packer_plugin_osc_chroot.options.config import AccessOptions
from packer_plugin_osc_chroot.options.data_sources import (
    DATA_SOURCES,
    IDENTITY,
    OMI,
    DataSource,
    Identity,
    IdentityOptions,
    Omi,
    OmiOptions,
)
from packer_plugin_osc_chroot.options.declaration import options_of
from packer_plugin_osc_chroot.options.prepare import PreparedDataSource, prepare_data_source
from packer_plugin_osc_chroot.redaction import Redactor
from packer_plugin_osc_chroot.service import data_source
from packer_plugin_osc_chroot.service.data_source import DataSourceService
from packer_plugin_osc_chroot.service.registry import Registry

OWN = "111111111111"
SERVICE = pb.DESCRIPTOR.services_by_name["DataSource"]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    disk = tmp_path_factory.mktemp("disks") / "disk.raw"
    disk.write_bytes(bytes(4096))
    omis = [
        OmiEntry(
            id=f"ami-0000000{number}",
            file=str(disk),
            name=f"base {number}",
            date=datetime(2026, 1, number, tzinfo=UTC),
            tags={"number": str(number)},
        )
        for number in (5, 7, 6)
    ]
    with LocalCloud(
        catalogue=Catalogue(accounts=[AccountEntry("localcloud", id=OWN)], omis=omis)
    ) as cloud:
        yield cloud
        assert cloud.defects == []


def prepared(source: DataSource, **raw: Any) -> PreparedDataSource:
    return prepare_data_source(source, raw, started_at=datetime.now(UTC), environ={})


def evaluated(
    cloud: LocalCloud, options: AccessOptions, *, token: CancelToken | None = None, **environ: str
) -> Omi | Identity:
    return evaluate(
        options,
        {**cloud.environment(), **environ},
        redact=Redactor(),
        token=token or CancelToken(),
    )


@pytest.mark.parametrize("source", DATA_SOURCES.values(), ids=lambda source: source.name)
def test_what_is_generated_of_each(source: DataSource) -> None:
    (component,) = (
        each for each in generate.components()["components"] if each["name"] == source.name
    )
    assert component["kind"] == "datasource"
    page = generate.data_source_reference(source)
    for table, place in ((source.options, "config"), (source.outputs, "output")):
        names = {spelling.name for row in options_of(table) for spelling in row.spellings}
        assert names == {*component[place]["attributes"], *component[place]["blocks"]}
        for row in options_of(table):
            assert row.doc.endswith(".") and f"- `{row.name}` (" in page
    assert {field.name for field in dataclasses.fields(source.outputs)} == {
        row.name for row in options_of(source.outputs)
    }
    assert source.example.splitlines()[0] in page
    assert source.actions in page


def test_options_in_every_form() -> None:
    result = prepared(
        OMI,
        filters={"image-name": "base *"},
        filter=[{"name": "architecture", "value": "x86_64"}],
        owners=["self"],
        most_recent=True,
        region=None,
        access_key="AK",
        secret_key="SK",
    )
    assert (result.errors, result.warnings) == ((), ())
    assert result.options == OmiOptions(
        filters={"image-name": "base *", "architecture": "x86_64"},
        owners=("self",),
        most_recent=True,
        access_key="AK",
        secret_key="SK",
    )
    assert result.secrets == ("AK", "SK")
    assert prepared(IDENTITY).options == IdentityOptions()


def test_what_core_does_not_know_yet_passes() -> None:
    """Another data source's value, at `packer validate`."""
    result = prepared(
        OMI, filters={"image-name": "<unknown>"}, owners=["<unknown>"], region="<unknown>"
    )
    assert result.errors == ()


@pytest.mark.parametrize(
    ("source", "raw", "errors"),
    [
        (OMI, {}, ["owners: required, and not set"]),
        (
            OMI,
            {"owners": ["a b"], "filters": {"architecture": "arm64"}, "most_recent": "maybe"},
            [
                'filters.architecture: must be i386 or x86_64, found "arm64": no OMI has that',
                'owners[0]: must be an account id, an account alias or self, found "a b"',
                'most_recent: expected true or false, found "maybe"',
            ],
        ),
        (IDENTITY, {"region": "eu-west-2a", "mfa_code": "123456"}, ["region: ", "mfa_code: "]),
        (IDENTITY, {"secret_key": "S"}, ["access_key: required with secret_key"]),
        (IDENTITY, {"regoin": "x"}, ['regoin: unknown option; did you mean "region"?']),
        (IDENTITY, {"profile": "{{.Nope"}, ["profile: "]),
    ],
)
def test_mistakes(source: DataSource, raw: Mapping[str, Any], errors: list[str]) -> None:
    result = prepared(source, **raw)
    assert result.options is None
    assert len(result.errors) == len(errors)
    assert all(any(found.startswith(each) for found in result.errors) for each in errors)


def test_the_newest_and_the_only_one(cloud: LocalCloud) -> None:
    newest = OmiOptions(filters={"image-name": "base *"}, owners=("self",), most_recent=True)
    found = evaluated(cloud, newest)
    assert isinstance(found, Omi)
    assert (found.id, found.tags, found.region) == ("ami-00000007", {"number": "7"}, "eu-west-2")
    with pytest.raises(BuildError, match="^filters: 3 OMIs match, expected one"):
        evaluated(cloud, dataclasses.replace(newest, most_recent=False))
    only = OmiOptions(filters={"tag:number": "6"}, owners=("self",))
    found = evaluated(cloud, only)
    assert isinstance(found, Omi) and found.id == "ami-00000006"


def test_an_omi_with_nothing_to_tell() -> None:
    assert parse_omi({"ImageId": "ami-1"}, region="r") == Omi(id="ami-1", region="r")


def test_identity(cloud: LocalCloud) -> None:
    found = evaluated(cloud, IdentityOptions())
    endpoint = cloud.environment()["OSC_ENDPOINT_API"]
    assert found == Identity(account_id=OWN, region="eu-west-2", endpoint=endpoint)


def test_the_region_is_the_vms_where_nothing_names_one(cloud: LocalCloud) -> None:
    found = evaluated(cloud, IdentityOptions(), OSC_REGION="")
    assert isinstance(found, Identity) and found.region == "eu-west-2"
    with pytest.raises(BuildError, match="^region: not set.* Set region$"):
        evaluated(
            cloud, IdentityOptions(), OSC_REGION="", OSC_CHROOT_METADATA_URL="http://127.0.0.1:1"
        )


def test_keys_from_elsewhere_than_the_profile_are_told_in_the_log(
    cloud: LocalCloud, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"mine": {}}')
    with caplog.at_level(logging.INFO):
        evaluated(cloud, IdentityOptions(profile="mine"), OSC_CONFIG_FILE=str(file))
    assert 'and not from the profile "mine"' in caplog.text


def test_a_user_who_may_not_read_accounts(cloud: LocalCloud) -> None:
    cloud.set_trouble(Trouble(forbidden=("ReadAccounts",)))
    try:
        with pytest.raises(BuildError, match="^ReadAccounts: .*that their user may call"):
            evaluated(cloud, IdentityOptions())
        own = OmiOptions(owners=("self",), most_recent=True)
        with pytest.raises(
            BuildError, match="^ReadAccounts: .*; or write the account's id in owners"
        ):
            evaluated(cloud, own)
    finally:
        cloud.set_trouble(Trouble())


def test_wrong_keys_are_no_missing_permission(cloud: LocalCloud) -> None:
    own = OmiOptions(owners=("self",), most_recent=True)
    with pytest.raises(BuildError, match="^ReadAccounts: .* Check access_key and secret_key"):
        evaluated(cloud, own, OSC_SECRET_KEY="wrong")


def test_a_cancel_ends_it(cloud: LocalCloud) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        evaluated(cloud, IdentityOptions(), token=token)


@pytest.fixture
def registry(cloud: LocalCloud) -> Registry:
    return Registry(environ=cloud.environment(), redact=Redactor())


def call(registry: Registry, method: str, request: Any) -> tuple[Any, Any, str]:
    server = grpc_testing.server_from_dictionary(
        {SERVICE: DataSourceService(registry)}, grpc_testing.strict_real_time()
    )
    started = server.invoke_unary_unary(SERVICE.methods_by_name[method], (), request, None)
    response, _, code, details = started.termination()
    return response, code, details


def configure(registry: Registry, name: str, **raw: Any) -> tuple[Any, Any, str]:
    request = pb.ConfigureRequest(
        component=pb.Component(kind="datasource", name=name),
        data_source_id="d1",
        raw_config=json.dumps(raw).encode(),
    )
    return call(registry, "Configure", request)


EXECUTE = pb.ExecuteRequest(data_source_id="d1")


def test_configure_and_execute(registry: Registry) -> None:
    response, code, _ = configure(registry, "osc-chroot-identity", region=None)
    assert (code, list(response.errors)) == (grpc.StatusCode.OK, [])
    response, code, _ = call(registry, "Execute", EXECUTE)
    assert code is grpc.StatusCode.OK
    assert json.loads(response.value_json)["account_id"] == OWN
    assert registry.evaluations == set()


def test_problems_of_the_options_are_part_of_the_answer(
    registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    response, _, _ = configure(
        registry, "osc-chroot-identity", access_key="AK-SECRET", region="AK-SECRET"
    )
    assert len(response.errors) == 1 and "AK-SECRET" not in response.errors[0]
    assert call(registry, "Execute", EXECUTE)[1:] == (
        grpc.StatusCode.FAILED_PRECONDITION,
        "Execute before a successful Configure",
    )
    with caplog.at_level(logging.WARNING):
        configure(registry, "osc-chroot-omi", owners=["self"], profile="{{.X}}")
    assert "profile: .X is not known" in caplog.text


def test_a_failure_has_its_details_below_it(registry: Registry) -> None:
    configure(registry, "osc-chroot-omi", owners=["self"])
    _, code, details = call(registry, "Execute", EXECUTE)
    first, *others = details.splitlines()
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert first.startswith("filters: 3 OMIs match, expected one. ")
    assert [line.split()[0] for line in others] == ["ami-00000007", "ami-00000006", "ami-00000005"]


def test_what_others_called_their_omis_does_no_harm(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(*_: object, **__: object) -> None:
        raise BuildError("2 OMIs match", details=["ami-1 \x1b[2J", "ami-2 \ud800"])

    configure(registry, "osc-chroot-identity")
    monkeypatch.setattr("packer_plugin_osc_chroot.data_source.evaluate", found)
    _, _, details = call(registry, "Execute", EXECUTE)
    assert details.splitlines() == ["2 OMIs match", "ami-1 ?[2J", "ami-2 ?"]


def test_the_end_of_the_service_ends_it(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(registry, "osc-chroot-identity")

    def slow(options: AccessOptions, environ: object, *, token: CancelToken, **_: object) -> None:
        registry.cancel_all("Packer is gone")
        token.sleep(10)

    monkeypatch.setattr("packer_plugin_osc_chroot.data_source.evaluate", slow)
    _, code, details = call(registry, "Execute", EXECUTE)
    assert (code, details) == (grpc.StatusCode.CANCELLED, "Packer is gone")


def test_windows_only_checks_the_options(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_source, "_SYSTEM", "win32")
    assert configure(registry, "osc-chroot-identity")[1] is grpc.StatusCode.OK
    _, code, details = call(registry, "Execute", EXECUTE)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert details.startswith("data sources are not evaluated on Windows")


def test_an_unknown_data_source(registry: Registry) -> None:
    _, code, details = configure(registry, "osc-chroot-nothing")
    assert code is grpc.StatusCode.NOT_FOUND and "different versions" in details
