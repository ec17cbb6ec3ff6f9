"""Fuzzing: whatever templates, the shim, the API, journals and commands hold, there is no traceback, no
hang, no growth. The seed is fixed (--seed takes another, --fuzz so many times more cases)."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from fuzz import Fuzz
from in_process import client
from test_options_properties import NAMES
from test_service import GOOD, make_registry, make_server, unary
from test_service_process import TOKEN, Service

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud import client as client_module
from packer_plugin_osc_chroot.cloud import wait
from packer_plugin_osc_chroot.cloud.connections import Connections
from packer_plugin_osc_chroot.cloud.metadata import read_identity
from packer_plugin_osc_chroot.contract import plugin_pb2 as pb
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.host.commands import MAX_LINE, Host
from packer_plugin_osc_chroot.host.transfer import open_rootfs
from packer_plugin_osc_chroot.journal.journal import Journal
from packer_plugin_osc_chroot.journal.story import read_story
from packer_plugin_osc_chroot.localcloud.catalogue import AccountEntry, Catalogue, OmiEntry
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.look import look
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.phases import Phases
from packer_plugin_osc_chroot.plan import Late, late_data, plan_build
from packer_plugin_osc_chroot.reclaim.next_build import title
from packer_plugin_osc_chroot.reclaim.orphans import find_orphans
from packer_plugin_osc_chroot.resources.image import register_image, wait_for_image
from packer_plugin_osc_chroot.resources.snapshot import start_snapshot, wait_for_snapshot
from packer_plugin_osc_chroot.resources.volume import created_volume
from packer_plugin_osc_chroot.service.stream import RunStream
from packer_plugin_osc_chroot.template.engine import Scope
from packer_plugin_osc_chroot.ui import RecordingUi

PACKERS_OWN = [
    *("packer_build_name", "packer_builder_type", "packer_core_version", "packer_debug"),
    *("packer_force", "packer_on_error", "packer_template_path", "packer_user_variables"),
    *("packer_sensitive_variables", "packer_build_id"),
]
OMI = "ami-00000001"


def test_configurations(fuzz: Fuzz) -> None:
    server = make_server(make_registry())
    for _ in fuzz.rounds(8000):
        options = {fuzz.random.choice(NAMES): fuzz.value() for _ in range(4)}
        own = {fuzz.random.choice(PACKERS_OWN): fuzz.value() for _ in range(2)}
        raw = [json.dumps(each).encode() for each in ({**GOOD, **options}, own)]
        if fuzz.random.random() < 0.3:
            raw = [fuzz.bytes(each) for each in raw]
        request = pb.PrepareRequest(
            component=pb.Component(kind="builder", name="osc-chroot"),
            builder_id="b",
            raw_configs=raw,
        )
        answer, code, details = unary(server, "Builder", "Prepare", request)
        assert code is grpc.StatusCode.OK, (raw, details)
        for text in (*answer.errors, *answer.warnings):
            assert text.strip() and "Traceback" not in text


# Each method: how it is called, and a valid message of it.
SCRATCH_START = pb.RunRequest(start=pb.RunStart(builder_id="b"))
METHODS: dict[str, tuple[str, list[Any]]] = {
    "Builder/Prepare": (
        "unary_unary",
        [
            pb.PrepareRequest(
                component=pb.Component(kind="builder", name="osc-chroot"),
                builder_id="b",
                raw_configs=[json.dumps({"omi_name": "x", "tags": {"a": "b"}}).encode()],
            )
        ],
    ),
    "Builder/Run": (
        "stream_stream",
        [SCRATCH_START, pb.RunRequest(ask_answer=pb.AskAnswer(id=1, text="x"))],
    ),
    "Builder/Cancel": ("unary_unary", [pb.CancelRequest(builder_id="b")]),
    "DataSource/Configure": (
        "unary_unary",
        [
            pb.ConfigureRequest(
                component=pb.Component(kind="datasource", name="osc-chroot-omi"),
                data_source_id="d",
                raw_config=json.dumps({"most_recent": True, "owners": ["self"]}).encode(),
            )
        ],
    ),
    "DataSource/Execute": ("unary_unary", [pb.ExecuteRequest(data_source_id="d")]),
    "Communicator/Start": (
        "stream_stream",
        [
            pb.StartRequest(command=pb.StartCommand(communicator_id="c", command="true")),
            pb.StartRequest(stdin=b"x"),
        ],
    ),
    "Communicator/Upload": (
        "stream_unary",
        [
            pb.UploadRequest(
                header=pb.UploadHeader(
                    communicator_id="c", remote="/x", mode=0o644, pipe="/no/such/pipe"
                )
            ),
            pb.UploadRequest(end=pb.ContentEnd()),
        ],
    ),
    "Communicator/Download": (
        "unary_unary",
        [pb.DownloadRequest(communicator_id="c", remote="/x", pipe="/no/such/pipe")],
    ),
    "Communicator/UploadDir": (
        "unary_unary",
        [pb.TransferDirRequest(communicator_id="c", local="/x", remote="/y")],
    ),
    "Communicator/DownloadDir": (
        "unary_unary",
        [pb.TransferDirRequest(communicator_id="c", local="/x", remote="/y")],
    ),
    "Artifact/State": ("unary_unary", [pb.StateRequest(artifact_id="a", name="x")]),
    "Artifact/Destroy": ("unary_unary", [pb.DestroyRequest(artifact_id="a")]),
}


def send(channel: grpc.Channel, method: str, messages: list[bytes]) -> grpc.StatusCode:
    """How the call ended."""
    kind, _ = METHODS[method]
    service, name = method.split("/")
    call = getattr(channel, kind)(
        f"/{pb.DESCRIPTOR.services_by_name[service].full_name}/{name}",
        request_serializer=lambda data: data,
        response_deserializer=lambda data: data,
    )
    more = {"metadata": [("authorization", f"Bearer {TOKEN}")], "timeout": 10}
    request: Any = iter(messages) if kind.startswith("stream") else (messages or [b""])[0]
    try:
        answer = call(request, **more)
        if kind.endswith("stream"):
            list(answer)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def memory(pid: int) -> float:
    """What it holds, in MiB."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) / 1024


@pytest.mark.timeout(300)
def test_messages(fuzz: Fuzz) -> None:
    service = Service("-m", "packer_plugin_osc_chroot")
    errors: list[str] = []
    assert service.process.stderr
    stderr = service.process.stderr
    reader = threading.Thread(target=lambda: errors.extend(stderr), daemon=True)
    reader.start()
    before = 0.0
    bad = {grpc.StatusCode.UNKNOWN, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}
    try:
        with grpc.insecure_channel(service.address) as channel:
            for number in fuzz.rounds(10_000):
                method = fuzz.random.choice([*METHODS])
                messages = [each.SerializeToString() for each in METHODS[method][1]]
                if fuzz.random.random() < 0.2:
                    messages = [fuzz.random.randbytes(fuzz.random.randrange(200))]
                elif fuzz.random.random() < 0.1:
                    messages = messages[1:]
                else:
                    messages = [fuzz.bytes(each) for each in messages]
                code = send(channel, method, messages)
                assert code not in bad, (method, messages, code)
                if number == 2000:
                    before = memory(service.process.pid)
            grown = memory(service.process.pid) - before if before else 0.0
            valid = [each.SerializeToString() for each in METHODS["Builder/Prepare"][1]]
            assert send(channel, "Builder/Prepare", valid) is grpc.StatusCode.OK
        assert grown < 30, f"{grown:.0f} MiB"
    finally:
        assert service.process.stdin
        service.process.stdin.close()
        assert service.process.wait(20) == 0
        reader.join(5)
    assert not any("Traceback" in line for line in errors), "".join(errors)


@pytest.fixture
def region(tmp_path: Path) -> Iterator[LocalCloud]:
    disk = tmp_path / "disk.raw"
    disk.write_bytes(bytes(4096))
    omi = OmiEntry(id=OMI, file=str(disk))
    with LocalCloud(catalogue=Catalogue(accounts=[AccountEntry("mine")], omis=[omi])) as cloud:
        yield cloud


def use_all(region: LocalCloud, name: str) -> None:
    """What a build does with the API, but for disks; and what reclaim lists."""
    cloud, token, ui = client(region), CancelToken(deadline=20.0), RecordingUi()
    config = Config(source_omi=OMI, omi_name=name, copy_files=(), tags={"a": "{{.SourceOMITags}}"})
    try:
        identity = read_identity(config, region.environment(), token=token)
        facts = look(cloud, config, identity, check_region=True, token=token, ui=ui)
        plan = plan_build(config, facts, Late(Scope(), late_data(facts), ui.message))
        with Phases(ui=ui, token=token) as phases:
            volume_id = phases.enter(
                "volume",
                lambda: created_volume(cloud, plan.volume, timeout=0.5, token=token, ui=ui),
            )
            snapshot_id = start_snapshot(
                cloud, volume_id, description="", phases=phases, token=token, ui=ui
            )
            wait_for_snapshot(cloud, snapshot_id, timeout=0.5, token=token, ui=ui)
            image_id = register_image(
                cloud,
                plan.image,
                snapshot_id,
                account_id=facts.account_id,
                name_is_new=True,
                phases=phases,
                token=token,
                ui=ui,
            )
            wait_for_image(cloud, image_id, timeout=0.5, token=token, ui=ui)
        find_orphans(cloud, vm_id=region.vm_id, spare=(), hours=0, token=token)
    except BuildError as error:
        assert error.message.strip()
    finally:
        cloud.close()


@pytest.mark.wrong_requests
@pytest.mark.timeout(300)
def test_answers_of_the_api(
    fuzz: Fuzz, region: LocalCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, names in (
        (client_module, ("_RETRY_SECONDS", "_FIRST_RETRY_SECONDS", "_RETRY_PAUSE")),
        (wait, ("SETTLE_SECONDS", "_LOOK_EVERY", "UNDO_SECONDS")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, 0.05)
    monkeypatch.setattr("packer_plugin_osc_chroot.cancel.UNDO_SECONDS", 1.0)
    send_one: Callable[..., Any] = Connections.send
    left = 0

    def lying(connections: Any, request: Any, **options: Any) -> Any:
        nonlocal left
        response = send_one(connections, request, **options)
        left -= 1
        if left != 0:
            return response
        content = response.content
        match fuzz.random.randrange(10):
            case 0:
                content = fuzz.bytes(content)
            case 1:
                content = fuzz.random.choice([b"", b"\xff\xfe", b"[" * 200_000, b"null", b'"x"'])
            case 2:
                inner = b'{"Bsu":' * 900 + b"{}" + b"}" * 900
                content = b'{"Volumes":[' + inner + b'],"Pad":"' + b"x" * 3_000_000 + b'"}'
            case 3:
                response.status_code = fuzz.random.choice([400, 401, 404, 409, 500, 503])
                content = fuzz.bytes(content)
            case _:
                content = json.dumps(fuzz.document(json.loads(content))).encode()
        response._content = content
        return response

    monkeypatch.setattr(Connections, "send", lying)
    for number in fuzz.rounds(60):
        left = fuzz.random.randrange(1, 26)
        begun = time.monotonic()
        use_all(region, f"fuzzed {number}")
        assert time.monotonic() - begun < 15


def test_output_of_commands(fuzz: Fuzz) -> None:
    pieces = (
        b"\x1b[31m",
        b"\xff\xfe",
        b"\r",
        b"\n",
        b"\0",
        b"\x9b2J",
        b"x" * 70_000,
        "é\u202e".encode(),
    )
    token = CancelToken()
    for _ in fuzz.rounds(1000):
        stream = RunStream(token, lambda _: "")
        data = b"".join(
            fuzz.random.choice(pieces)
            if fuzz.random.random() < 0.7
            else fuzz.random.randbytes(fuzz.random.randrange(50))
            for _ in range(fuzz.random.randrange(30))
        )
        shown = threading.Thread(target=_check_shown, args=(stream, len(data)))
        shown.start()
        Host().run(["cat"], token=token, input=data, on_line=stream.message)
        stream.finish()
        shown.join(10)
        assert not shown.is_alive()


def _check_shown(stream: RunStream, size: int) -> None:
    for event in stream.events():
        assert len(event.ui.text) <= MAX_LINE + 60
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", event.ui.text)


def test_megabytes_on_one_line_are_one_line() -> None:
    said: list[str] = []
    Host().run(["head", "-c", "20000000", "/dev/zero"], token=CancelToken(), on_line=said.append)
    (line,) = said
    assert len(line) < MAX_LINE + 60 and line.endswith(f"[and {20_000_000 - MAX_LINE} characters]")


def test_names_of_files(fuzz: Fuzz, tmp_path: Path) -> None:
    """What is written below the root is read there again, or refused; nothing else is touched."""
    root, local, outside = (tmp_path / name for name in ("root", "local", "outside"))
    for each in (root, local, outside):
        each.mkdir()
    (outside / "file").write_bytes(b"theirs")
    (root / "out").symlink_to("../outside")
    parts = (
        "..",
        ".",
        "out",
        "a",
        "x" * 300,
        "\n",
        "\x1b[2J",
        "\udcff\udcfe",
        "é",
        "\0",
        "-rf",
        "*",
        "",
    )
    token, written = CancelToken(), 0
    with open_rootfs(Host(), root) as files:
        for number in fuzz.rounds(1000):
            names = fuzz.random.choices(parts, k=fuzz.random.randrange(1, 4))
            path = fuzz.random.choice(("", "/")) + "/".join(names) + fuzz.random.choice(("", "/"))
            content = b"%d" % number
            with suppress(BuildError, OSError):
                files.upload(path, [content], mode=0, token=token)
                assert b"".join(files.download(path, token=token)) == content
                written += 1
            with suppress(BuildError, OSError, ValueError):
                (local / names[-1]).write_bytes(content)
            if number % 50 == 0:
                with suppress(BuildError, OSError):
                    files.upload_dir(
                        str(local), path, contents_only=number % 100 == 0, exclude=[], token=token
                    )
    assert written > fuzz.cases / 10
    assert [each.read_bytes() for each in outside.iterdir()] == [b"theirs"]
    assert {each.name for each in tmp_path.iterdir()} == {"root", "local", "outside"}


def test_journals(fuzz: Fuzz, tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.begin(vm_id="i-1", region="r", endpoint="e", account_id="a", omi_name="\x1bn")
    volume = {"ClientToken": journal.client_token(), "Size": 1}
    number = journal.sending("CreateVolume", volume)
    journal.answered(number, "CreateVolume", volume, {"Volume": {"VolumeId": "vol-1"}})
    journal.sending("LinkVolume", {"VolumeId": "vol-1", "VmId": "i-1", "DeviceName": "/dev/xvdb"})
    journal.process(1)
    journal.mounting("/mnt/é", "/dev/null")
    journal.deregistering({"ImageId": "ami-1", "ImageName": "x"})
    journal.returned("ami-1", "ami-2")
    journal.keep("vol-2")
    (file,) = tmp_path.iterdir()
    text = file.read_bytes()
    journal.end(kept=False, failed=False)
    lines = text.splitlines(keepends=True)
    for _ in fuzz.rounds(20_000):
        if fuzz.random.random() < 0.5:
            bad = fuzz.bytes(text)
        else:
            at = fuzz.random.randrange(len(lines))
            line = json.dumps(fuzz.document(json.loads(lines[at]))).encode() + b"\n"
            bad = b"".join([*lines[:at], line, *lines[at + 1 :]])
        try:
            story = read_story(bad)
        except BuildError:
            continue
        if story is not None:
            assert all("\x1b" not in line for line in [*story.describe(), title(story)])
            datetime.fromtimestamp(story.about.at, UTC)
