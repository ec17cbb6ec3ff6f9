"""The OUTSCALE API: one client for each build. `osc_sdk_python` signs and sends; this module decides
how long to wait, what to repeat, and what to say when a call fails.

The SDK's own session is replaced: it hard-codes TLS verification, has no timeout, leaves the private
key of a client certificate out, and its retries neither heed a cancel nor ask whether an action may
be repeated (read in osc-sdk-python 0.42.0).
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from osc_sdk_python.call import Call
from osc_sdk_python.credentials import Endpoint, Profile
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from packer_plugin_osc_chroot.cancel import CancelToken, abandonable
from packer_plugin_osc_chroot.cloud.budget import Budget
from packer_plugin_osc_chroot.cloud.connections import Connections
from packer_plugin_osc_chroot.cloud.credentials import Credentials
from packer_plugin_osc_chroot.cloud.pace import Pace, Sign
from packer_plugin_osc_chroot.cloud.wait_times import WaitTimes
from packer_plugin_osc_chroot.errors import BuildError, CloudError
from packer_plugin_osc_chroot.journal.effects import tells_id
from packer_plugin_osc_chroot.journal.journal import Journal
from packer_plugin_osc_chroot.version import VERSION

log = logging.getLogger(__name__)

Json = dict[str, Any]

USER_AGENT = f"packer-plugin-osc-chroot/{VERSION}"
# Seconds to connect, and between two bytes of an answer.
_TIMEOUT = (5.0, 60.0)
# How long a call that keeps failing is repeated, in seconds; and the longest pause between two tries.
_RETRY_SECONDS = 120.0
# The same as long as the endpoint has never answered: it is more likely wrong than down.
_FIRST_RETRY_SECONDS = 6.0
_RETRY_PAUSE = 15.0


class Cloud:
    """Thread-safe. `region` is known by now; `close()` ends the connections.

    Each call that makes something is in the journal before it is sent. `shared` is a directory for what
    the builds on this VM tell each other: how long waits take, and how fast they may call.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        region: str,
        journal: Journal | None = None,
        shared: Path | None = None,
    ) -> None:
        self.region = region
        self.journal = journal or Journal()
        self.endpoint = credentials.endpoint_url(region)
        # Whether it is another than the Region's own.
        self.is_custom = bool(credentials.endpoint)
        self._budget = Budget(shared, account=f"{self.endpoint} {credentials.access_key}")
        host = urlsplit(self.endpoint).hostname or ""
        self._wait_times = WaitTimes(shared, endpoint=host)
        self._session = _Session(credentials, host=host)
        self._call = _Call(
            profile=Profile(
                access_key=credentials.access_key,
                secret_key=credentials.secret_key,
                region=region,
                protocol="https",
                endpoints=Endpoint(api=self.endpoint),
            ),
            session=self._session,
        )

    def close(self) -> None:
        self._session.close()

    def read(self, action: str, *, token: CancelToken, **body: Any) -> Json:
        """A call that changes nothing. A cancel ends it at once, whatever the network does."""
        return abandonable(lambda: self._repeated(action, body, token), token=token, name=action)

    def trial(self, action: str, *, token: CancelToken, **body: Any) -> None:
        """A DryRun: sent once at most, since nothing depends on it. Raises CloudError."""
        if self._budget.is_tight:
            log.info("DryRun of %s: left out, calls are being throttled", action)
            return
        abandonable(lambda: self._once(action, {**body, "DryRun": True}), token=token, name=action)

    def one(
        self, action: str, key: str, *, token: CancelToken, **filters: list[str]
    ) -> Json | None:
        """The first resource below `key` that fits the filters, or None."""
        found = _resources(action, self.read(action, token=token, Filters=filters), key)
        return found[0] if found else None

    def change(self, action: str, *, token: CancelToken, **body: Any) -> Json:
        """A call that makes or changes something.

        Once sent it is waited for, cancel or not: only its answer tells what there is to undo.
        """
        token.check()
        number = self.journal.sending(action, body)
        try:
            answer = self._repeated(action, body, token)
        except BuildError as error:
            if not error.maybe_done:
                self.journal.refused(number)
            raise
        self.journal.answered(number, action, body, answer)
        if not tells_id(action, answer):
            # Done, it seems; what it made is looked for as where no answer came.
            raise CloudError(f"{action}: the answer does not say what was made", action=action)
        return answer

    def pace(self, kind: str, *, sign: Sign | None = None) -> Pace:
        """The pace of a wait that begins now, of the kind that `kind` names."""
        return Pace(
            self._wait_times.of(kind),
            learn=lambda seconds: self._wait_times.add(kind, seconds),
            turn=self._budget.look_turn,
            sign=sign,
        )

    def pages(self, action: str, key: str, *, token: CancelToken, **body: Any) -> Iterator[Json]:
        """The resources below `key` of every page of a Read action."""
        while True:
            answer = self.read(action, token=token, **body)
            yield from _resources(action, answer, key)
            if not (following := answer.get("NextPageToken")):
                return
            if following == body.get("NextPageToken"):
                raise CloudError(f"{action}: the answer has itself as the next page", action=action)
            body = {**body, "NextPageToken": following}

    def _repeated(self, action: str, body: Mapping[str, Any], token: CancelToken) -> Json:
        """What is raised at the end is `maybe_done` if any of the tries was."""
        repeatable = _is_repeatable(action, body)
        maybe_done = False

        def worth_repeating(error: BaseException) -> bool:
            nonlocal maybe_done
            if not isinstance(error, CloudError):
                return False
            maybe_done = maybe_done or error.maybe_done
            if is_throttled(error):
                self._budget.throttled()
            again = error.status == 429 or repeatable and error.maybe_done
            if again:
                log.info("%s: %s; trying again", action, error.message)
            return again

        retrying = Retrying(
            retry=retry_if_exception(worth_repeating),
            wait=_pause,
            stop=lambda state: (state.seconds_since_start or 0.0) > self._patience(),
            sleep=token.sleep,
            reraise=True,
        )
        try:
            return retrying(self._in_turn, action, body, token)
        except BuildError as error:
            error.maybe_done = maybe_done
            raise

    def _patience(self) -> float:
        return _RETRY_SECONDS if self._session.answered else _FIRST_RETRY_SECONDS

    def _in_turn(self, action: str, body: Mapping[str, Any], token: CancelToken) -> Json:
        self._budget.call_turn(token)
        return self._once(action, body)

    def _once(self, action: str, body: Mapping[str, Any]) -> Json:
        try:
            answer = self._call.api(action, **body)
        except requests.exceptions.SSLError as error:
            raise CloudError(
                f"{action}: the TLS certificate of {self.endpoint} is not accepted ({_root(error)})",
                action=action,
                status=-1,
                hint="Check custom_endpoint_oapi, or set insecure_skip_tls_verify for a test endpoint",
            ) from error
        except requests.exceptions.JSONDecodeError as error:
            raise CloudError(
                f"{action}: {self.endpoint} answered with something that is not JSON",
                action=action,
                hint="Check region and custom_endpoint_oapi",
            ) from error
        except requests.exceptions.RequestException as error:
            raise CloudError(
                f"{action}: no answer from {self.endpoint} ({_root(error)})",
                action=action,
                hint="Check region, custom_endpoint_oapi and this VM's network",
            ) from error
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            # The SDK takes every answer for an object of the form that it knows.
            log.info("%s: %r", action, error)
            answer = None
        if not isinstance(answer, dict):
            raise CloudError(
                f"{action}: {self.endpoint} answered with something that is no object",
                action=action,
                hint="Check region and custom_endpoint_oapi",
            )
        return answer


def _pause(state: RetryCallState) -> float:
    """Seconds until the next try: randomised and growing, and no sooner than the API asks for.

    It is asked for the same by all who it throttles, so that is the beginning of a random time.
    """
    error = state.outcome.exception() if state.outcome else None
    wanted = error.retry_after if isinstance(error, CloudError) else 0.0
    grown = wait_random_exponential(multiplier=0.5, max=_RETRY_PAUSE)(state)
    return min(wanted, _RETRY_SECONDS) + grown


def _resources(action: str, answer: Json, key: str) -> list[Json]:
    found = answer.get(key) or []
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise CloudError(f"{action}: the answer's {key} is no list of objects", action=action)
    return found


def is_throttled(error: CloudError) -> bool:
    """The account, or the whole platform (503 code 6), has had too many calls (API Throttling)."""
    return error.status == 429 or error.status == 503 and "6" in error.codes


def is_forbidden(error: CloudError) -> bool:
    """These credentials may not do it. The API answers this with 401 too, as it does wrong keys."""
    return error.status in (401, 403) or any(
        "Unauthorized" in kind or "AccessDenied" in kind for kind in error.types
    )


def is_missing(error: CloudError) -> bool:
    """The resource that the call names does not exist."""
    return (
        error.status == 404
        or error.status == 400
        and any(kind.startswith("InvalidResource") for kind in error.types)
    )


def _is_repeatable(action: str, body: Mapping[str, Any]) -> bool:
    """Doing it twice is the same as once: reads, deletes, tags, and what has a ClientToken."""
    if "ClientToken" in body or body.get("DryRun"):
        return True
    return action.startswith(("Read", "Delete", "Unlink", "Update", "CreateTags"))


def _root(error: BaseException) -> str:
    """The innermost reason of a requests error, which wraps several layers."""
    while True:
        inner = getattr(error, "reason", None) or error.__cause__ or error.__context__
        if not isinstance(inner, BaseException):
            text = str(error).strip() or type(error).__name__
            return text.rsplit("] ", 1)[-1][:200]
        error = inner


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
        self.answered = False
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
        response = super().request(method, url, allow_redirects=False, **kwargs)
        self.answered = True
        if response.status_code != 200:
            raise _api_error(response)
        return response


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
