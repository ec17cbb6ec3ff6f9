"""What signs and sends a call of the API, and what its refusals mean.

`osc_sdk_python` signs. Its own session is replaced: it hard-codes TLS verification, has no timeout,
leaves the private key of a client certificate out, and its retries neither heed a cancel nor ask
whether an action may be repeated (read in osc-sdk-python 0.42.0).
"""

import logging
import ssl
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests
from osc_sdk_python.call import Call
from osc_sdk_python.credentials import Endpoint, Profile

from packer_plugin_osc_chroot.cloud.connections import Connections
from packer_plugin_osc_chroot.cloud.credentials import Credentials
from packer_plugin_osc_chroot.cloud.shape import misshapen
from packer_plugin_osc_chroot.errors import CloudError
from packer_plugin_osc_chroot.version import VERSION

log = logging.getLogger(__name__)

Json = dict[str, Any]

USER_AGENT = f"packer-plugin-osc-chroot/{VERSION}"
# Seconds to connect, and between two bytes of an answer.
_TIMEOUT = (5.0, 60.0)
# Bytes of the longest answer: a page of a thousand resources has a megabyte.
_LONGEST = 64 << 20


class Sender:
    """Thread-safe. Sends a call once, for better or worse."""

    def __init__(self, credentials: Credentials, *, endpoint: str, region: str) -> None:
        self._endpoint = endpoint
        self._session = _Session(credentials, host=urlsplit(endpoint).hostname or "")
        self._call = _Call(
            profile=Profile(
                access_key=credentials.access_key,
                secret_key=credentials.secret_key,
                region=region,
                protocol="https",
                endpoints=Endpoint(api=endpoint),
            ),
            session=self._session,
        )

    def close(self) -> None:
        self._session.close()

    def send(self, action: str, body: Mapping[str, Any]) -> Json:
        """The answer. Raises CloudError."""
        try:
            answer = self._call.api(action, **body)
        except requests.exceptions.JSONDecodeError as error:
            raise self._no_answer(action, "answered with something that is not JSON") from error
        except requests.exceptions.RequestException as error:
            # Any other failure of TLS may come after the call was taken.
            if isinstance(_innermost(error), ssl.SSLCertVerificationError):
                raise CloudError(
                    f"{action}: the TLS certificate of {self._endpoint} is not accepted"
                    f" ({_root(error)})",
                    action=action,
                    status=-1,
                    hint="Check custom_endpoint_oapi, or set insecure_skip_tls_verify for a test"
                    " endpoint",
                ) from error
            raise CloudError(
                f"{action}: no answer from {self._endpoint} ({_root(error)})",
                action=action,
                hint="Check region, custom_endpoint_oapi and this VM's network",
            ) from error
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            # The SDK takes every answer for an object of the form that it knows.
            log.info("%s: %r", action, error)
            answer = None
        if not isinstance(answer, dict):
            raise self._no_answer(action, "answered with something that is no object")
        if problem := misshapen(answer):
            lie = CloudError(f"{action}: the answer's {problem}", action=action, status=200)
            lie.maybe_done = True
            raise lie
        return answer

    def _no_answer(self, action: str, what: str) -> CloudError:
        return CloudError(
            f"{action}: {self._endpoint} {what}",
            action=action,
            hint="Check region and custom_endpoint_oapi",
        )


def _innermost(error: BaseException) -> BaseException:
    """The reason of a requests error, which wraps several layers."""
    while True:
        inner = getattr(error, "reason", None) or error.__cause__ or error.__context__
        if not isinstance(inner, BaseException):
            return error
        error = inner


def _root(error: BaseException) -> str:
    reason = _innermost(error)
    text = str(reason).strip() or type(reason).__name__
    return text.rsplit("] ", 1)[-1][:200]


class _Call(Call):  # type: ignore[misc]
    """The SDK's call, with a profile and a session that are given, not looked up."""

    def __init__(self, *, profile: Profile, session: requests.Session) -> None:
        self._given = profile
        super().__init__(max_retries=0, user_agent=USER_AGENT)
        self.session: requests.Session = session

    def update_profile(self, **kwargs: Any) -> dict[str, Any]:
        self.profile = self._given
        return kwargs


class _Session(requests.Session):
    """Adds what the SDK leaves out, and turns the API's errors into ours."""

    def __init__(self, credentials: Credentials, *, host: str) -> None:
        super().__init__()
        self._verify = credentials.verify
        self._cert = credentials.client_certificate
        # The SDK signs the host without its port, so that is what must be sent.
        self.headers["Host"] = host
        if credentials.session_token:
            # As OUTSCALE's clients send it: beside the signature, not part of it.
            self.headers["X-Osc-Security-Token"] = credentials.session_token
        for scheme in ("https://", "http://"):
            self.mount(scheme, Connections())
        if not credentials.verify:
            requests.packages.urllib3.disable_warnings()  # type: ignore[attr-defined]

    def request(self, method: Any, url: Any, **kwargs: Any) -> requests.Response:  # type: ignore[override]
        kwargs.update(verify=self._verify, cert=self._cert, timeout=_TIMEOUT)
        response = super().request(method, url, allow_redirects=False, stream=True, **kwargs)
        _read(response)
        if response.status_code != 200:
            raise _api_error(response)
        return response


def _read(response: requests.Response) -> None:
    """Read all of it, unless there is no end of it."""
    content = bytearray()
    with response:
        for chunk in response.iter_content(1 << 16):
            content += chunk
            if len(content) > _LONGEST:
                raise requests.exceptions.RequestException(
                    f"an answer of more than {_LONGEST >> 20} MiB"
                )
    # Where `content` and `json()` look, once somebody has read it.
    response._content = bytes(content)


def _api_error(response: requests.Response) -> CloudError:
    action = urlsplit(response.url).path.rsplit("/", 1)[-1]
    try:
        document = response.json()
        errors = [item for item in document["Errors"] if isinstance(item, dict)]
        request_id = str(document.get("ResponseContext", {}).get("RequestId", ""))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        errors, request_id = [], ""
    codes = [str(item.get("Code", "")) for item in errors]
    types = [str(item.get("Type", "")) for item in errors]
    said = "; ".join(
        " ".join(part for part in (str(item.get("Type", "")), str(item.get("Details", ""))) if part)
        for item in errors
    )
    text = f"{action}: {said or response.reason or 'refused'} (HTTP {response.status_code}"
    text += f", code {', '.join(codes)}" if codes else ""
    text += f", request {request_id})" if request_id else ")"
    return CloudError(
        text,
        action=action,
        status=response.status_code,
        codes=codes,
        types=types,
        request_id=request_id,
        hint=_hint(response.status_code, " ".join(types)),
        retry_after=_retry_after(response.headers.get("Retry-After", "")),
    )


def _retry_after(value: str) -> float:
    """The header's two forms (RFC 9110): seconds, or a date. What is neither says nothing."""
    if value.strip().isdecimal():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return max(0.0, (at - datetime.now(UTC)).total_seconds())


_HINTS: tuple[tuple[Callable[[int, str], bool], str], ...] = (
    (
        lambda status, _: status == 401,
        "Check access_key and secret_key, that they belong to this Region, and this VM's clock",
    ),
    (
        lambda status, kinds: status == 403 or "Unauthorized" in kinds or "AccessDenied" in kinds,
        "These credentials may not do this: ask the account's owner for the permission",
    ),
    (
        lambda _, kinds: "Quota" in kinds or "TooManyResources" in kinds,
        "Remove what is not needed, or ask OUTSCALE for a higher quota",
    ),
)


def _hint(status: int, kinds: str) -> str:
    return next((hint for applies, hint in _HINTS if applies(status, kinds)), "")
