"""The VM as the Region sees it: metadata, credentials, the API, the clock."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

import requests

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.cloud.credentials import Credentials, find_credentials
from packer_plugin_osc_chroot.cloud.metadata import Identity, read_identity
from packer_plugin_osc_chroot.cloud.session import USER_AGENT
from packer_plugin_osc_chroot.doctor.finding import Finding, failed, ok, problem, unknown, warning
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.options.config import Config

_SECONDS = 30.0
_TIMEOUT = (5.0, 10.0)
# Signatures carry the time: a clock that is minutes off has them refused.
_SKEW_WARNING = 60.0
_SKEW_PROBLEM = 300.0


@dataclass
class Region:
    """What the checks find out one after the other, each for those that follow."""

    environ: Mapping[str, str]
    identity: Identity | None = None
    credentials: Credentials | None = None
    # The device names of this VM's mappings, where the API has told.
    taken: list[str] | None = None
    secrets: list[str] = field(default_factory=list)

    def check(self) -> Iterator[Finding]:
        yield self._check_metadata()
        yield self._check_credentials()
        yield from self._check_api()

    def _check_metadata(self) -> Finding:
        try:
            self.identity = read_identity(Config(), self.environ, token=_token())
        except BuildError as error:
            return failed("metadata", error)
        return ok("metadata", f"VM {self.identity.vm_id} in {self.identity.subregion}")

    def _check_credentials(self) -> Finding:
        try:
            found = find_credentials(Config(), self.environ)
        except BuildError as error:
            return failed("credentials", error)
        self.credentials = found
        self.secrets += [found.access_key, found.secret_key, found.session_token]
        return ok("credentials", f"a key pair from {found.found_in}; a template's own comes first")

    def _check_api(self) -> Iterator[Finding]:
        credentials = self.credentials
        region = (credentials.region if credentials else "") or (
            self.identity.region if self.identity else ""
        )
        if credentials is None or not region:
            lacking = "credentials" if credentials is None else "a Region"
            yield unknown("API", f"not asked, for want of {lacking}")
            yield unknown("clock", f"not compared, for want of {lacking}")
            return
        cloud = Cloud(credentials, region=region)
        try:
            yield self._ask(cloud)
        except BuildError as error:
            yield failed("API", error)
        finally:
            cloud.close()
        yield _check_clock(cloud.endpoint, credentials)

    def _ask(self, cloud: Cloud) -> Finding:
        if self.identity is None:
            cloud.read("ReadVms", token=_token(), ResultsPerPage=1)
            return ok("API", f"{cloud.endpoint} answers and takes the keys")
        vm_id = self.identity.vm_id
        vm = cloud.one("ReadVms", "Vms", token=_token(), VmIds=[vm_id])
        if vm is None:
            return problem(
                "API",
                f"{cloud.endpoint} answers, and does not show VM {vm_id} (this one) to these keys",
                "Check the Region, and that the keys belong to the account that owns this VM",
            )
        mappings = vm.get("BlockDeviceMappings") or []
        self.taken = [str(mapping.get("DeviceName", "")) for mapping in mappings]
        return ok("API", f"{cloud.endpoint} answers, and shows this VM to these keys")


def _token() -> CancelToken:
    return CancelToken(deadline=_SECONDS, reason=f"no answer within {_SECONDS:.0f} s")


def _check_clock(endpoint: str, credentials: Credentials) -> Finding:
    """Any answer of the API has its time, a refusal too."""
    try:
        answer = requests.post(
            f"{endpoint}/ReadRegions",
            json={},
            headers={"User-Agent": USER_AGENT},
            verify=credentials.verify,
            cert=credentials.client_certificate,
            timeout=_TIMEOUT,
        )
        there = parsedate_to_datetime(answer.headers["Date"]).timestamp()
    except OSError:
        # Any of requests, and the one for a file of authorities that is not there.
        return unknown("clock", "not compared: the API does not answer")
    except (KeyError, ValueError):
        return unknown("clock", "not compared: the API's answer has no time")
    skew = _now() - there
    shown = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the API's"
    hint = "Set it, and have it kept right (chrony, systemd-timesyncd)"
    if abs(skew) >= _SKEW_PROBLEM:
        return problem("clock", f"this machine's is {shown}: the API refuses its signatures", hint)
    if abs(skew) >= _SKEW_WARNING:
        return warning("clock", f"this machine's is {shown}", hint)
    return ok("clock", "agrees with the API's")


def _now() -> float:
    return time.time()
