"""Which VM this is, whose keys are used, and the API as they reach it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.cloud.credentials import PROFILE_FILE, find_credentials
from packer_plugin_osc_chroot.cloud.metadata import Identity, read_identity
from packer_plugin_osc_chroot.cloud.private_files import private_directory
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.journal.journal import Journal
from packer_plugin_osc_chroot.options.config import AccessOptions, Config
from packer_plugin_osc_chroot.redaction import Redactor
from packer_plugin_osc_chroot.ui import Ui


@dataclass(frozen=True)
class Access:
    """The API, and the VM whose disks its volumes become."""

    cloud: Cloud
    identity: Identity


def find_access(
    config: Config,
    environ: Mapping[str, str],
    *,
    redact: Redactor,
    journal: Journal,
    token: CancelToken,
    ui: Ui,
) -> Access:
    """`redact` learns the keys. Raises BuildError where this is no OUTSCALE VM, or there are none."""
    identity = read_identity(config, environ, token=token)
    cloud = find_cloud(
        config, environ, lambda: identity.region, redact=redact, journal=journal, token=token, ui=ui
    )
    return Access(cloud, identity)


def find_cloud(
    config: AccessOptions,
    environ: Mapping[str, str],
    region_here: Callable[[], str],
    *,
    redact: Redactor,
    journal: Journal | None = None,
    token: CancelToken,
    ui: Ui,
) -> Cloud:
    """The API alone. `region_here` is asked where neither options, environment nor profile name one,
    and may not know. Raises BuildError where there are no credentials, or no Region."""
    credentials = find_credentials(config, environ)
    redact.add((credentials.secret_key, credentials.access_key, credentials.session_token))
    if config.profile and credentials.found_in != PROFILE_FILE:
        ui.message(
            f'The keys are from {credentials.found_in}, and not from the profile "{config.profile}"'
        )
    region = credentials.region or region_here()
    if not region:
        raise BuildError(
            "region: not set, and not known without the metadata service", hint="Set region"
        )
    return Cloud(credentials, region=region, journal=journal, shared=private_directory(environ))
