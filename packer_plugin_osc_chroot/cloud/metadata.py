"""The VM's metadata service: which VM this is, and where it runs."""

import dataclasses
from collections.abc import Mapping

import requests

from packer_plugin_osc_chroot.cancel import CancelToken, abandonable
from packer_plugin_osc_chroot.errors import BuildError

DEFAULT_URL = "http://169.254.169.254"
URL_VARIABLE = "OSC_CHROOT_METADATA_URL"
# The service is one hop away: silence means that there is none.
_TIMEOUT = (1.5, 5.0)


@dataclasses.dataclass(frozen=True)
class Identity:
    """This VM. `region` is its Subregion's name without the final letter."""

    vm_id: str
    subregion: str

    @property
    def region(self) -> str:
        return self.subregion.rstrip("abcdefghijklmnopqrstuvwxyz")


def read_identity(environ: Mapping[str, str], *, token: CancelToken) -> Identity:
    """Raises BuildError when this is not an OUTSCALE VM."""
    base = (environ.get(URL_VARIABLE) or DEFAULT_URL).rstrip("/")
    return abandonable(lambda: _read_identity(base), token=token, name="metadata")


def _read_identity(base: str) -> Identity:
    with requests.Session() as session:
        # A proxy meant for the outside must not be asked about this VM.
        session.trust_env = False
        return Identity(
            vm_id=_read(session, base, "instance-id"),
            subregion=_read(session, base, "placement/availability-zone"),
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
        hint="Run packer on a VM of the Region to build in; `packer-plugin-osc-chroot localcloud run`"
        " plays one to try templates on",
    )
