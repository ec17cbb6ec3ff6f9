"""The VM's metadata service: which VM this is, and where it runs."""

import dataclasses
from collections.abc import Mapping

import requests

from packer_plugin_osc_chroot.cancel import CancelToken, abandonable
from packer_plugin_osc_chroot.errors import BuildError, Cancelled
from packer_plugin_osc_chroot.options import checks
from packer_plugin_osc_chroot.options.config import Config

DEFAULT_URL = "http://169.254.169.254"
URL_VARIABLE = "OSC_CHROOT_METADATA_URL"
# The service is one hop away: silence means that there is none.
_TIMEOUT = (1.5, 5.0)


@dataclasses.dataclass(frozen=True)
class Identity:
    """This VM. `region` is its Subregion's name without the final letter; both may be empty."""

    vm_id: str
    subregion: str

    @property
    def region(self) -> str:
        return self.subregion.rstrip("abcdefghijklmnopqrstuvwxyz")


def read_identity(config: Config, environ: Mapping[str, str], *, token: CancelToken) -> Identity:
    """What the options `vm_id` and `subregion` say, and for the rest the metadata service.

    With `vm_id` the service is not asked at all: the Subregion may then be empty, and the API knows
    it. Raises BuildError when this is not an OUTSCALE VM.
    """
    if config.vm_id:
        return Identity(vm_id=config.vm_id, subregion=config.subregion)
    if config.skip_metadata_api_check:
        raise BuildError(
            "skip_metadata_api_check: without the metadata service this VM is not known",
            hint="Set vm_id to its id",
        )
    base = _base(config.metadata_url, environ)
    return abandonable(lambda: _read_identity(base, config.subregion), token=token, name="metadata")


def region_if_known(environ: Mapping[str, str], *, token: CancelToken) -> str:
    """The Region of this VM; empty where this is none."""
    base = _base("", environ)
    try:
        return abandonable(lambda: _read_identity(base, ""), token=token, name="metadata").region
    except Cancelled:
        raise
    except BuildError:
        return ""


def _base(option: str, environ: Mapping[str, str]) -> str:
    url = option or environ.get(URL_VARIABLE) or DEFAULT_URL
    # The option's has been looked at by Prepare.
    if problem := checks.url(url):
        raise BuildError(f"{URL_VARIABLE}: {problem}", hint="Correct or unset it")
    return url.rstrip("/")


def _read_identity(base: str, subregion: str) -> Identity:
    with requests.Session() as session:
        # A proxy meant for the outside must not be asked about this VM.
        session.trust_env = False
        return Identity(
            vm_id=_read(session, base, "instance-id"),
            subregion=subregion or _read(session, base, "placement/availability-zone"),
        )


def _read(session: requests.Session, base: str, path: str) -> str:
    url = f"{base}/latest/meta-data/{path}"
    try:
        response = session.get(url, timeout=_TIMEOUT)
        text = response.text.strip()
    except requests.RequestException:
        text, response = "", None
    if response is not None and response.status_code == 200 and text and "\n" not in text:
        return text
    found = "no answer" if response is None else f"HTTP {response.status_code}"
    raise BuildError(
        f"this is not an OUTSCALE VM: {url} gives {found}",
        hint="Run packer on a VM of the Region to build in (where its metadata service is out of"
        " reach, set vm_id and region); `packer-plugin-osc-chroot localcloud run` plays one to try"
        " templates on",
    )
