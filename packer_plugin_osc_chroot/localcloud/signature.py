"""Checks the signatures of requests: OSC4-HMAC-SHA256, or AWS4-HMAC-SHA256 as OUTSCALE's Go SDK signs.

The header is `OSC4-HMAC-SHA256 Credential=KEY/DATE/REGION/api/osc4_request, SignedHeaders=a;b,
Signature=HEX`; in the other, AWS4 and aws4 stand for OSC4 and osc4, X-Amz-Date for X-Osc-Date. The
signed host may lack the port: osc-sdk-python signs it without one.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from packer_plugin_osc_chroot.localcloud import assumptions
from packer_plugin_osc_chroot.localcloud.errors import ApiError

_HEADER = re.compile(
    r"(?P<family>OSC|AWS)4-HMAC-SHA256 Credential=(?P<key>[^/\s,]+)/(?P<date>\d{8})/(?P<region>[^/,]+)"
    r"/(?P<service>[^/,]+)/(?P<end>(?:osc|aws)4_request), ?SignedHeaders=(?P<headers>[a-z0-9;-]+),"
    r" ?Signature=(?P<signature>[0-9a-f]{64})"
)
_DATE_HEADERS = {"OSC": "x-osc-date", "AWS": "x-amz-date"}
# What osc-sdk-python and osc-sdk-go call the service.
_SERVICES = ("api", "oapi")


@dataclass(frozen=True)
class SignedRequest:
    """A request as it came in: header names in lower case, the body's bytes."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class _Failures:
    count: int = 0
    locked_until: float = 0.0


class SignatureChecker:
    """Tells whose key signed a request. `secrets` maps access keys to secret keys."""

    def __init__(
        self,
        secrets: Mapping[str, str],
        *,
        region: str,
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._secrets = dict(secrets)
        self._region = region
        self._now = now
        self._monotonic = monotonic
        self._failures: dict[str, _Failures] = {}

    def check(self, request: SignedRequest) -> str:
        """The access key that signed `request`. Raises ApiError (access-denied)."""
        header = request.headers.get("authorization", "")
        if not header:
            raise _denied("The request is not signed: it has no Authorization header.")
        parts = _HEADER.fullmatch(header.strip())
        if parts is None or parts["end"] != f"{parts['family'].lower()}4_request":
            raise _denied("The Authorization header is not of the form of OSC4-HMAC-SHA256.")
        key = parts["key"]
        secret = self._secrets.get(key)
        if secret is None:
            raise _denied(f"The access key {key} does not exist.")
        failures = self._failures.setdefault(key, _Failures())
        if self._monotonic() < failures.locked_until:
            raise _denied(f"The access key {key} is locked after too many wrong signatures.")
        try:
            self._check_scope(request, parts)
            self._check_signature(request, parts, secret)
        except ApiError:
            failures.count += 1
            if failures.count >= assumptions.SIGNATURE_FAILURES_TO_LOCK:
                failures.count = 0
                failures.locked_until = self._monotonic() + assumptions.SIGNATURE_LOCK_SECONDS
            raise
        failures.count = 0
        return key

    def _check_scope(self, request: SignedRequest, parts: re.Match[str]) -> None:
        if parts["region"] != self._region or parts["service"] not in _SERVICES:
            raise _denied(
                f"The request is signed for {parts['region']}/{parts['service']}, this is"
                f" {self._region}/api."
            )
        date_header = _DATE_HEADERS[parts["family"]]
        for name in ("host", date_header):
            if name not in parts["headers"].split(";"):
                raise _denied(f"The header {name} must be signed.")
        try:
            date = datetime.strptime(request.headers.get(date_header, ""), "%Y%m%dT%H%M%SZ")
        except ValueError:
            raise _denied(f"{date_header} must have the form YYYYMMDDTHHMMSSZ.") from None
        if date.strftime("%Y%m%d") != parts["date"]:
            raise _denied(f"The date of the credential scope is not that of {date_header}.")
        skew = abs(self._now() - date.replace(tzinfo=UTC))
        if skew > timedelta(seconds=assumptions.SIGNATURE_SKEW_SECONDS):
            raise _denied(f"{date_header} is {int(skew.total_seconds())} s off the Region's clock.")

    def _check_signature(self, request: SignedRequest, parts: re.Match[str], secret: str) -> None:
        host = request.headers.get("host", "")
        without_port = re.sub(r":\d+$", "", host)
        for signed_host in (host, without_port):
            headers = {**request.headers, "host": signed_host}
            signature = _signature(request, headers=headers, parts=parts, secret=secret)
            if hmac.compare_digest(signature, parts["signature"]):
                return
        raise _denied("The signature is not the one that the request and the secret key give.")


def _denied(details: str) -> ApiError:
    return ApiError("access-denied", details)


def _signature(
    request: SignedRequest,
    *,
    headers: Mapping[str, str],
    parts: re.Match[str],
    secret: str,
) -> str:
    names = parts["headers"].split(";")
    scope = (parts["date"], parts["region"], parts["service"], parts["end"])
    path, _, query = request.path.partition("?")
    canonical_headers = "".join(f"{name}:{headers.get(name, '').strip()}\n" for name in names)
    canonical = "\n".join(
        (
            request.method,
            path,
            "&".join(sorted(query.split("&"))),
            canonical_headers,
            ";".join(names),
            hashlib.sha256(request.body).hexdigest(),
        )
    )
    to_sign = "\n".join(
        (
            f"{parts['family']}4-HMAC-SHA256",
            headers.get(_DATE_HEADERS[parts["family"]], ""),
            "/".join(scope),
            hashlib.sha256(canonical.encode()).hexdigest(),
        )
    )
    signing_key = f"{parts['family']}4{secret}".encode()
    for part in scope:
        signing_key = hmac.digest(signing_key, part.encode(), "sha256")
    return hmac.digest(signing_key, to_sign.encode(), "sha256").hex()
