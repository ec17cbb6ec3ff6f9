"""The API client against a server that answers as told: what is repeated, what is said, TLS, cancel."""

import json
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud import client, session
from packer_plugin_osc_chroot.cloud.budget import Budget
from packer_plugin_osc_chroot.cloud.client import Cloud, is_missing
from packer_plugin_osc_chroot.cloud.credentials import Credentials
from packer_plugin_osc_chroot.errors import Cancelled, CloudError
from packer_plugin_osc_chroot.resources.removal import find_made
from packer_plugin_osc_chroot.resources.sharing import Permissions, share_image
from packer_plugin_osc_chroot.resources.volume import delete_volume

# Status, body, headers beyond the usual ones.
Answer = tuple[int, bytes, dict[str, str]]


def good(**body: Any) -> Answer:
    return 200, json.dumps(body).encode(), {}


def refusal(
    status: int, *, code: str = "1", kind: str = "Kind", headers: dict[str, str] | None = None
) -> Answer:
    error = {"Code": code, "Type": kind, "Details": "what it says"}
    document = {"Errors": [error], "ResponseContext": {"RequestId": "req-1"}}
    return status, json.dumps(document).encode(), headers or {}


class Server:
    """Gives its answers in order, the last one for ever; keeps what it was asked."""

    def __init__(self, answers: list[Answer], context: ssl.SSLContext | None = None) -> None:
        self.answers = answers
        self.asked: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.hold = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                action = self.path.rsplit("/", 1)[-1]
                outer.asked.append((action, body, dict(self.headers)))
                answers = outer.answers
                status, content, more = answers.pop(0) if len(answers) > 1 else answers[0]
                if status == 0:
                    outer.hold.wait(10)
                    self.close_connection = True
                    return
                self.send_response(status)
                length = {"Content-Length": str(len(content))}
                for name, value in {"Content-Type": "application/json", **length, **more}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                """Not on the test's output."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        scheme = "http"
        if context is not None:
            scheme = "https"
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"{scheme}://127.0.0.1:{self.server.server_port}/api/v1"


@contextmanager
def serving(*answers: Answer, context: ssl.SSLContext | None = None) -> Iterator[Server]:
    server = Server(list(answers), context)
    thread = threading.Thread(target=server.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.hold.set()
        server.server.shutdown()
        server.server.server_close()


def connect(
    url: str,
    *,
    verify: bool = True,
    shared: Path | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Cloud:
    credentials = Credentials(
        access_key="AK", secret_key="SK", region="eu-west-2", endpoint=url, verify=verify
    )
    return Cloud(credentials, region="eu-west-2", shared=shared, tell=tell)


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_RETRY_PAUSE", 0.01)


def test_a_call() -> None:
    with serving(good(Vms=[])) as server:
        answer = connect(server.url).read("ReadVms", token=CancelToken(), Filters={"VmIds": ["i"]})
        ((action, body, headers),) = server.asked
    assert answer == {"Vms": []}
    assert (action, body) == ("ReadVms", {"Filters": {"VmIds": ["i"]}})
    # The SDK signs the host without its port.
    assert headers["Host"] == "127.0.0.1"
    assert headers["Authorization"].startswith("OSC4-HMAC-SHA256 Credential=AK/")
    assert headers["User-Agent"].startswith("packer-plugin-osc-chroot/")


def test_all_pages() -> None:
    with serving(
        good(Images=[{"ImageId": "a"}], NextPageToken="t"), good(Images=[{"ImageId": "b"}])
    ) as server:
        pages = list(connect(server.url).pages("ReadImages", "Images", token=CancelToken()))
        assert server.asked[1][1] == {"NextPageToken": "t"}
    assert pages == [{"ImageId": "a"}, {"ImageId": "b"}]


@pytest.mark.parametrize(
    ("action", "body", "trouble"),
    [
        ("ReadVms", {}, refusal(503, code="6")),
        ("ReadVms", {}, refusal(500)),
        ("ReadVms", {}, (200, b'{"Vms": [', {})),
        ("ReadVms", {}, (502, b"<html>bad gateway</html>", {})),
        ("CreateVolume", {"ClientToken": "t"}, refusal(503)),
        ("DeleteVolume", {}, refusal(503)),
        ("LinkVolume", {}, refusal(429, code="24")),
        ("CreateImage", {}, refusal(429, code="25")),
    ],
)
def test_what_is_repeated(action: str, body: dict[str, Any], trouble: Answer) -> None:
    done = {"Done": True, "Volume": {"VolumeId": "vol-1"}, "Image": {"ImageId": "ami-1"}}
    with serving(good(), trouble, good(**done)) as server:
        cloud = connect(server.url)
        cloud.read("ReadVms", token=CancelToken())
        assert cloud.change(action, token=CancelToken(), **body) == done
        assert len(server.asked) == 3


@pytest.mark.parametrize("action", ["LinkVolume", "CreateImage", "CreateVolume"])
def test_what_may_have_been_done_is_not_repeated_blindly(action: str) -> None:
    with serving(refusal(503), good()) as server:
        with pytest.raises(CloudError) as caught:
            connect(server.url).change(action, token=CancelToken())
        assert len(server.asked) == 1
    assert caught.value.maybe_done


@pytest.mark.parametrize(
    ("answers", "maybe_done"),
    [
        ([refusal(400)], False),
        ([refusal(429), refusal(400)], False),
        ([refusal(503), refusal(400)], True),
        ([refusal(503), refusal(429), refusal(409)], True),
        ([(200, b"not JSON", {}), refusal(401)], True),
    ],
)
def test_a_refusal_does_not_take_back_what_an_earlier_try_may_have_done(
    answers: list[Answer], maybe_done: bool
) -> None:
    with serving(good(), *answers) as server:
        cloud = connect(server.url)
        cloud.read("ReadVms", token=CancelToken())
        with pytest.raises(CloudError) as caught:
            cloud.change("CreateVolume", token=CancelToken(), ClientToken="t")
        assert len(server.asked) == 1 + len(answers)
    assert caught.value.status == answers[-1][0]
    assert caught.value.maybe_done is maybe_done


@pytest.mark.parametrize(("status", "maybe_done"), [(429, False), (503, True)])
def test_a_cancel_between_two_tries_knows_whether_anything_may_have_been_done(
    monkeypatch: pytest.MonkeyPatch, status: int, maybe_done: bool
) -> None:
    monkeypatch.setattr(client, "_RETRY_PAUSE", 30.0)
    token = CancelToken()
    with serving(refusal(status)) as server:
        threading.Timer(0.5, token.cancel).start()
        with pytest.raises(Cancelled) as caught:
            connect(server.url).change("CreateVolume", token=token, ClientToken="t")
    assert caught.value.maybe_done is maybe_done
    with pytest.raises(Cancelled) as not_sent:
        connect(server.url).change("CreateVolume", token=token, ClientToken="t")
    assert not not_sent.value.maybe_done


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (refusal(401, kind="AccessDenied"), "Check access_key and secret_key"),
        (refusal(403, kind="UnauthorizedOperation"), "ask the account's owner"),
        (refusal(400, kind="TooManyResources (QuotaExceeded)"), "higher quota"),
    ],
)
def test_refusals_come_out_once_with_what_to_do(answer: Answer, hint: str) -> None:
    with serving(answer) as server:
        with pytest.raises(CloudError) as caught:
            connect(server.url).read("ReadVms", token=CancelToken())
        assert len(server.asked) == 1
    assert hint in str(caught.value)
    assert "what it says" in str(caught.value) and "req-1" in str(caught.value)


def test_a_volume_goes_also_where_nobody_may_ask_for_its_snapshots() -> None:
    answers = (
        good(),
        refusal(409),
        good(Volumes=[{"VolumeId": "vol-1", "State": "available"}]),
        refusal(403),
        good(),
    )
    with serving(*answers) as server:
        cloud = connect(server.url)
        cloud.read("ReadVms", token=CancelToken())
        delete_volume(cloud, "vol-1", token=CancelToken())
        asked = [action for action, _, _ in server.asked[1:]]
    # The read between them shows that it is not the keys.
    assert asked == ["DeleteVolume", "ReadVolumes", "ReadSnapshots", "ReadVms", "DeleteVolume"]


def test_what_others_made_is_never_found_by_a_client_token() -> None:
    shown = [
        {"VolumeId": "vol-1", "ClientToken": "of another"},
        {"VolumeId": "vol-2", "ClientToken": "ours"},
    ]
    with serving(good(Volumes=shown)) as server:
        cloud = connect(server.url)

        def find(client_token: str) -> str | None:
            return find_made(cloud, "Volumes", "VolumeId", client_token, token=CancelToken())

        assert find("ours") == "vol-2"
        assert find("nobody's") is None
        asked = len(server.asked)
        # As in a journal whose line was cut short.
        assert find("") is None
        assert len(server.asked) == asked == 2


def test_a_missing_resource_is_told_apart() -> None:
    with serving(refusal(400, code="5064", kind="InvalidResource")) as server:
        with pytest.raises(CloudError) as caught:
            connect(server.url).change("DeleteVolume", token=CancelToken(), VolumeId="vol-1")
    assert is_missing(caught.value)


def test_a_cancel_ends_a_read_that_hangs() -> None:
    token = CancelToken()
    with serving((0, b"", {})) as server:
        threading.Timer(0.2, token.cancel).start()
        begun = time.monotonic()
        with pytest.raises(Cancelled):
            connect(server.url).read("ReadVms", token=token)
        assert time.monotonic() - begun < 1.2


def test_nobody_there() -> None:
    with pytest.raises(CloudError, match="no answer from http://127.0.0.1:1/api/v1 .*refused"):
        connect("http://127.0.0.1:1").read("ReadVms", token=CancelToken())


def test_throttling_of_the_very_first_call_is_no_dead_endpoint(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "_FIRST_RETRY_SECONDS", 0.0)
    with serving(refusal(429, code="24"), good(Vms=[])) as server:
        assert connect(server.url).read("ReadVms", token=CancelToken()) == {"Vms": []}


def test_the_time_in_the_queue_for_a_turn_is_not_that_of_failing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with many builds below a low rate, each of whose calls is throttled now and then."""
    monkeypatch.setattr(client, "_RETRY_SECONDS", 1.0)
    monkeypatch.setattr(Budget, "call_turn", lambda self, token: token.sleep(1.1))
    with serving(refusal(429, code="24"), good(Vms=[])) as server:
        assert connect(server.url).read("ReadVms", token=CancelToken()) == {"Vms": []}


def test_a_trial_is_sent_once() -> None:
    with serving(refusal(429, code="24"), good()) as server:
        with pytest.raises(CloudError):
            connect(server.url).trial("CreateVolume", token=CancelToken(), Size=1)
        assert [(action, body) for action, body, _ in server.asked] == [
            ("CreateVolume", {"Size": 1, "DryRun": True})
        ]


@pytest.mark.parametrize("throttling", [refusal(429, code="24"), refusal(503, code="6")])
def test_what_is_not_needed_is_not_called_while_calls_are_throttled(
    throttling: Answer, tmp_path: Path
) -> None:
    with serving(throttling, good(Vms=[])) as server:
        one, other = (connect(server.url, shared=tmp_path) for _ in range(2))
        one.read("ReadVms", token=CancelToken())
        other.trial("CreateVolume", token=CancelToken(), Size=1)
        other.read("ReadVms", token=CancelToken())
        assert [action for action, _, _ in server.asked] == ["ReadVms"] * 3


def test_tls_is_verified_unless_told_otherwise(tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        + ["-subj", "/CN=127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with serving(good(Vms=[]), context=context) as server:
        with pytest.raises(CloudError, match="insecure_skip_tls_verify"):
            connect(server.url).read("ReadVms", token=CancelToken())
        assert connect(server.url, verify=False).read("ReadVms", token=CancelToken()) == {"Vms": []}


@pytest.mark.parametrize(
    "bad",
    [
        (200, b'{"Vms": [', {}),
        (200, b'{"Vms": []}', {"Content-Length": "500", "Connection": "close"}),
        (200, b"<html>a proxy</html>", {}),
        (200, b'["no object"]', {}),
        (502, b"<html>a proxy</html>", {}),
        (503, b"\xff\xfe\x00", {}),
        (200, b"[" * 100_000, {}),
        (503, b"[" * 100_000, {}),
    ],
    ids=[
        "torn JSON",
        "truncated",
        "HTML",
        "no object",
        "a proxy's error",
        "bytes",
        "nested too deep",
        "an error nested too deep",
    ],
)
def test_what_is_no_answer_is_asked_for_again_where_that_is_safe(bad: Answer) -> None:
    with serving(good(), bad, good(Vms=[{"VmId": "i-1"}])) as server:
        cloud = connect(server.url)
        cloud.read("ReadAccounts", token=CancelToken())
        assert cloud.one("ReadVms", "Vms", token=CancelToken()) == {"VmId": "i-1"}
    with serving(good(), bad, good()) as server:
        cloud = connect(server.url)
        cloud.read("ReadAccounts", token=CancelToken())
        with pytest.raises(CloudError) as caught:
            cloud.change("CreateImage", token=CancelToken(), ImageName="x")
        assert caught.value.maybe_done
        assert len(server.asked) == 2


def test_a_permission_that_is_refused_names_the_options_that_asked_for_it() -> None:
    permissions = Permissions(everybody=True)
    with serving(refusal(400)) as server:
        cloud, token = connect(server.url), CancelToken()
        with pytest.raises(CloudError, match="^omi_account_ids, .*global_permission: UpdateImage"):
            share_image(cloud, "ami-1", permissions, token=token)
        with pytest.raises(CloudError, match="^UpdateImage"):
            share_image(cloud, "ami-1", permissions, asked_by="", token=token)


def test_a_page_that_follows_itself_is_no_loop() -> None:
    with serving(good(Images=[], NextPageToken="t")) as server:
        with pytest.raises(CloudError, match="itself as the next page"):
            list(connect(server.url).pages("ReadImages", "Images", token=CancelToken()))
        assert len(server.asked) == 2


@pytest.mark.parametrize("vms", ["none", [1], {"VmId": "i-1"}, [[]]])
def test_answers_of_another_shape(vms: Any) -> None:
    with (
        serving(good(Vms=vms)) as server,
        pytest.raises(CloudError, match="the answer's Vms .*(expected a list|without VmId)"),
    ):
        connect(server.url).one("ReadVms", "Vms", token=CancelToken())


@pytest.mark.parametrize("answer", [{}, {"Volume": {}}, {"Volume": "vol-1"}, {"Volume": None}])
def test_a_creation_whose_answer_names_nothing_may_be_done(answer: dict[str, Any]) -> None:
    with serving(good(**answer)) as server, pytest.raises(CloudError) as caught:
        connect(server.url).change("CreateVolume", token=CancelToken(), ClientToken="t")
    assert caught.value.maybe_done


def test_retry_after_is_honoured() -> None:
    refused = refusal(429, code="24", headers={"Retry-After": "1"})
    with serving(refused, good(Vms=[])) as server:
        begun = time.monotonic()
        connect(server.url).read("ReadVms", token=CancelToken())
        assert 1.0 <= time.monotonic() - begun < 2.0


def test_a_cancel_ends_the_time_that_retry_after_asks_for() -> None:
    token = CancelToken()
    threading.Timer(0.2, token.cancel).start()
    with serving(refusal(503, headers={"Retry-After": "60"})) as server:
        begun = time.monotonic()
        with pytest.raises(Cancelled):
            connect(server.url).read("ReadVms", token=token)
        assert time.monotonic() - begun < 1.0


@pytest.mark.parametrize(
    ("value", "low", "high"),
    [
        ("7", 7, 7),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0, 0),
        ("soon", 0, 0),
        ("-3", 0, 0),
        ("", 0, 0),
    ],
)
def test_the_forms_of_retry_after(value: str, low: float, high: float) -> None:
    assert low <= session._retry_after(value) <= high


def test_a_date_in_retry_after() -> None:
    at = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    assert 3590 <= session._retry_after(at) <= 3600
