"""Signatures made by osc-sdk-python are accepted, altered ones are not."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from osc_sdk_python.authentication import Authentication
from osc_sdk_python.credentials import Profile

from packer_plugin_osc_chroot.localcloud.errors import ApiError
from packer_plugin_osc_chroot.localcloud.signature import SignatureChecker, SignedRequest

KEY, SECRET = "AKEXAMPLE", "not-a-real-secret"


@dataclass
class Clock:
    seconds: float = 0.0
    start: datetime = field(default_factory=lambda: datetime.now(UTC))

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return 10_000 + self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def checker(clock: Clock) -> SignatureChecker:
    return SignatureChecker(
        {KEY: SECRET}, region="eu-west-2", now=clock.now, monotonic=clock.monotonic
    )


def signed(
    *,
    key: str = KEY,
    secret: str = SECRET,
    region: str = "eu-west-2",
    signed_host: str = "127.0.0.1",
) -> SignedRequest:
    profile = Profile(access_key=key, secret_key=secret, region=region)
    body = '{"Size": 1}'
    headers = Authentication(profile, signed_host).forge_headers_signed("/api/v1/ReadVms", body)
    return SignedRequest(
        method="POST",
        path="/api/v1/ReadVms",
        headers={
            "host": "127.0.0.1:8080",
            **{name.lower(): value for name, value in headers.items()},
        },
        body=body.encode(),
    )


def with_header(request: SignedRequest, name: str, value: str) -> SignedRequest:
    return replace(request, headers={**request.headers, name: value})


@pytest.mark.parametrize("signed_host", ["127.0.0.1", "127.0.0.1:8080"])
def test_accepted_with_and_without_port(checker: SignatureChecker, signed_host: str) -> None:
    assert checker.check(signed(signed_host=signed_host)) == KEY


def refused(checker: SignatureChecker, request: SignedRequest) -> str:
    with pytest.raises(ApiError) as caught:
        checker.check(request)
    assert caught.value.name == "access-denied"
    assert SECRET not in caught.value.details
    return caught.value.details


@pytest.mark.parametrize(
    "alter",
    [
        lambda request: replace(request, body=b'{"Size": 2}'),
        lambda request: replace(request, path="/api/v1/ReadVolumes"),
        lambda request: replace(request, method="PUT"),
        lambda request: with_header(request, "content-type", "text/plain"),
        lambda request: with_header(request, "host", "api.eu-west-2.outscale.com"),
        lambda request: signed(secret="another"),
    ],
)
def test_altered_request_is_refused(
    checker: SignatureChecker, alter: Callable[[SignedRequest], SignedRequest]
) -> None:
    # Signed now: a whole test run takes longer than a signature is good for.
    assert "signature is not the one" in refused(checker, alter(signed()))


def test_refusals_say_why(checker: SignatureChecker) -> None:
    assert "AKOTHER does not exist" in refused(checker, signed(key="AKOTHER"))
    assert "us-east-2" in refused(checker, signed(region="us-east-2"))
    bare = signed()
    headers = {name: value for name, value in bare.headers.items() if name != "authorization"}
    assert "not signed" in refused(checker, replace(bare, headers=headers))
    assert "form" in refused(checker, with_header(bare, "authorization", "Basic Og=="))
    mixed = bare.headers["authorization"].replace("osc4_request", "aws4_request")
    assert "form" in refused(checker, with_header(bare, "authorization", mixed))
    unsigned_host = bare.headers["authorization"].replace("content-type;host;", "content-type;")
    assert "host must be signed" in refused(
        checker, with_header(bare, "authorization", unsigned_host)
    )


@pytest.mark.parametrize("seconds", [-1000.0, 1000.0])
def test_clock_skew(checker: SignatureChecker, clock: Clock, seconds: float) -> None:
    request = signed()
    clock.seconds = seconds
    assert "off the Region's clock" in refused(checker, request)
    clock.seconds = seconds / 2
    assert checker.check(request) == KEY


def test_four_wrong_signatures_lock_the_key(checker: SignatureChecker, clock: Clock) -> None:
    for _ in range(3):
        refused(checker, signed(secret="wrong"))
    assert checker.check(signed()) == KEY  # A right one ends the row.
    for _ in range(4):
        refused(checker, signed(secret="wrong"))
    assert "locked" in refused(checker, signed())
    clock.seconds += 61
    assert checker.check(signed()) == KEY
