"""Checks the signatures of requests (OSC4-HMAC-SHA256).

The header is `OSC4-HMAC-SHA256 Credential=KEY/DATE/REGION/api/osc4_request, SignedHeaders=a;b,
Signature=HEX`. The signed host may lack the port: osc-sdk-python signs it without one.
"""

import hashlib
import hmac
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from packer_plugin_osc_chroot.localcloud import assumptions
from packer_plugin_osc_chroot.localcloud.errors import ApiError

_ALGORITHM = "OSC4-HMAC-SHA256"
_HEADER = re.compile(
    rf"{_ALGORITHM} Credential=(?P<key>[^/\s,]+)/(?P<date>\d{{8}})/(?P<region>[^/,]+)"
    r"/(?P<service>[^/,]+)/osc4_request, ?SignedHeaders=(?P<headers>[a-z0-9;-]+),"
    r" ?Signature=(?P<signature>[0-9a-f]{64})"
)
_MUST_BE_SIGNED = ("host", "x-osc-date")


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
        if parts is None:
            raise _denied(f"The Authorization header is not of the form of {_ALGORITHM}.")
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
        if parts["region"] != self._region or parts["service"] != "api":
            raise _denied(
                f"The request is signed for {parts['region']}/{parts['service']}, this is"
                f" {self._region}/api."
            )
        for name in _MUST_BE_SIGNED:
            if name not in parts["headers"].split(";"):
                raise _denied(f"The header {name} must be signed.")
        try:
            date = datetime.strptime(request.headers.get("x-osc-date", ""), "%Y%m%dT%H%M%SZ")
        except ValueError:
            raise _denied("X-Osc-Date must have the form YYYYMMDDTHHMMSSZ.") from None
        if date.strftime("%Y%m%d") != parts["date"]:
            raise _denied("The date of the credential scope is not that of X-Osc-Date.")
        skew = abs(self._now() - date.replace(tzinfo=UTC))
        if skew > timedelta(seconds=assumptions.SIGNATURE_SKEW_SECONDS):
            raise _denied(f"X-Osc-Date is {int(skew.total_seconds())} s off the Region's clock.")

    def _check_signature(self, request: SignedRequest, parts: re.Match[str], secret: str) -> None:
        host = request.headers.get("host", "")
        without_port = re.sub(r":\d+$", "", host)
        for signed_host in (host, without_port):
            headers = {**request.headers, "host": signed_host}
            signature = _signature(
                request, headers=headers, names=parts["headers"].split(";"), secret=secret,
                scope=(parts["date"], parts["region"], parts["service"], "osc4_request"),
            )  # fmt: skip
            if hmac.compare_digest(signature, parts["signature"]):
                return
        raise _denied("The signature is not the one that the request and the secret key give.")


def _denied(details: str) -> ApiError:
    return ApiError("access-denied", details)


def _signature(
    request: SignedRequest,
    *,
    headers: Mapping[str, str],
    names: list[str],
    secret: str,
    scope: tuple[str, ...],
) -> str:
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
            _ALGORITHM,
            headers.get("x-osc-date", ""),
            "/".join(scope),
            hashlib.sha256(canonical.encode()).hexdigest(),
        )
    )
    signing_key = f"OSC4{secret}".encode()
    for part in scope:
        signing_key = hmac.digest(signing_key, part.encode(), "sha256")
    return hmac.digest(signing_key, to_sign.encode(), "sha256").hex()
