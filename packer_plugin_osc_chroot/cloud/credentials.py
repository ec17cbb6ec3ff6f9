"""Who signs the calls, and to which endpoint: template, environment, profile file, in that order.

The profile file is OUTSCALE's own `~/.osc/config.json`, in the SDKs' spelling and in osc-cli's older
one. `osc_sdk_python` would read both by itself, with the file winning over the environment, and
refuses keys it does not know: so this is done here.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from packer_plugin_osc_chroot.cloud.named_files import read_named
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.options import checks
from packer_plugin_osc_chroot.options.config import AccessOptions

# In the order in which they are looked at: today's name, then the older one.
_ENVIRONMENT: Mapping[str, tuple[str, ...]] = {
    "access_key": ("OSC_ACCESS_KEY", "OUTSCALE_ACCESSKEYID"),
    "secret_key": ("OSC_SECRET_KEY", "OUTSCALE_SECRETKEYID"),
    "region": ("OSC_REGION", "OUTSCALE_REGION"),
    "endpoint": ("OSC_ENDPOINT_API", "OUTSCALE_OAPI_URL"),
    "x509_cert": ("OSC_X509_CLIENT_CERT", "OUTSCALE_X509CERT"),
    "x509_key": ("OSC_X509_CLIENT_KEY", "OUTSCALE_X509KEY"),
    "tls_skip_verify": ("OSC_TLS_SKIP_VERIFY",),
}
MFA_PROBLEM = (
    "the OUTSCALE API takes no code with an access key; a session that is trusted by multi-factor"
    " authentication is opened in Cockpit, and accounts that demand more than the key for its API"
    " take a client certificate (x509_cert_path)"
)
_DEFAULT_FILE = "~/.osc/config.json"
_HOW = (
    "Set access_key and secret_key in the template, OSC_ACCESS_KEY and OSC_SECRET_KEY in the"
    " environment, or a profile in ~/.osc/config.json"
)


@dataclasses.dataclass(frozen=True)
class Credentials:
    """`endpoint` is empty where the Region's own is meant; `region` where only metadata knows it."""

    access_key: str
    secret_key: str = dataclasses.field(repr=False)
    region: str
    endpoint: str
    verify: bool
    x509_cert: str = ""
    x509_key: str = ""
    session_token: str = dataclasses.field(default="", repr=False)
    # Where the key pair was found, in the user's words: variables and the profile by their names.
    found_in: str = ""
    is_of_profile: bool = False

    @property
    def client_certificate(self) -> str | tuple[str, str] | None:
        """As requests takes it."""
        if self.x509_key:
            return self.x509_cert, self.x509_key
        return self.x509_cert or None

    def endpoint_url(self, region: str) -> str:
        """The URL that actions are appended to, without a final slash."""
        return endpoint_url(self.endpoint, region)


def endpoint_url(endpoint: str, region: str) -> str:
    """An endpoint as users write it, as a URL. Sources: the older builder's form, OUTSCALE's SDKs."""
    if not endpoint:
        domain = "outscale.hk" if region == "cn-southeast-1" else "outscale.com"
        return f"https://api.{region}.{domain}/api/v1"
    if "://" not in endpoint:
        older = endpoint.rstrip("/").endswith("/oapi/latest") and not endpoint.startswith("api.")
        endpoint = f"https://api.{region}.{endpoint}" if older else f"https://{endpoint}"
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/') or '/api/v1'}"


def endpoint_problem(endpoint: str) -> str | None:
    """What is wrong with an endpoint as written, or None."""
    if not endpoint or "<unknown>" in endpoint:
        return None
    try:
        parts = urlsplit(endpoint_url(endpoint, "region"))
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if good and "@" in parts.netloc:
        # Not quoted: it would hold a password.
        return "must have no user name in it: access_key and secret_key sign the calls"
    if good and not any(char.isspace() or char in "?#" for char in endpoint):
        return None
    return f'must be an endpoint such as https://api.eu-west-2.outscale.com, found "{endpoint}"'


def from_environment(environ: Mapping[str, str], key: str) -> str:
    """What the environment says; `key` is a name of Credentials."""
    return environ.get(_variable(environ, key), "")


def _variable(environ: Mapping[str, str], key: str) -> str:
    """The variable that counts; the first that could be set where none is."""
    names = _ENVIRONMENT[key]
    return next((name for name in names if environ.get(name)), names[0])


def half_pair_problem(values: Mapping[str, Any], environ: Mapping[str, str]) -> str | None:
    """One key of the pair in the template, and the other nowhere that a build would look."""
    for here, other in (("access_key", "secret_key"), ("secret_key", "access_key")):
        if values.get(here) and not values.get(other) and not from_environment(environ, other):
            return f"{other}: required with {here}, and set neither here nor in the environment"
    return None


def find_credentials(config: AccessOptions, environ: Mapping[str, str]) -> Credentials:
    """Raises BuildError where there are none, or a file that is asked for cannot be used."""
    if config.mfa_code:
        raise BuildError(f"mfa_code: {MFA_PROBLEM}", hint="Leave mfa_code out")
    profile = _profile(config.profile, environ)

    def pick(template: str, key: str) -> str:
        return template or from_environment(environ, key) or profile.get(key, "")

    access_key = config.access_key or from_environment(environ, "access_key")
    secret_key = config.secret_key or from_environment(environ, "secret_key")
    where = _found_in(config, environ)
    is_of_profile = not access_key and not secret_key
    if is_of_profile:
        # A pair is never made of halves from the file and from elsewhere: they would not match.
        where = profile.get("source", "")
        access_key, secret_key = profile.get("access_key", ""), profile.get("secret_key", "")
    if not access_key and not secret_key:
        raise BuildError(
            "no OUTSCALE credentials: access_key and secret_key are set nowhere", hint=_HOW
        )
    if not access_key or not secret_key:
        here, other = ("access_key", "secret_key")[:: 1 if access_key else -1]
        raise BuildError(
            f"OUTSCALE credentials: {here} is set in {where}, but {other} is not",
            hint=f"Set {other} there too: the keys in the profile file are used as a pair only",
        )
    for option, value in (("access_key", access_key), ("secret_key", secret_key)):
        if problem := checks.key(value):
            raise BuildError(f"{option}: {problem}", hint=f"It is set in {where}")
    skip = config.insecure_skip_tls_verify or _truth(pick("", "tls_skip_verify"))
    region = pick(config.region, "region")
    endpoint = pick(config.custom_endpoint_oapi, "endpoint")
    for option, problem in (
        ("region", checks.region(region) if region else None),
        ("custom_endpoint_oapi", endpoint_problem(endpoint)),
    ):
        if problem:
            raise BuildError(
                f"{option}: {problem}", hint="It is from the environment or the profile file"
            )
    x509_cert = pick(config.x509_cert_path, "x509_cert")
    x509_key = pick(config.x509_key_path, "x509_key")
    _check_certificate(x509_cert, x509_key)
    return Credentials(
        # A line end that came along from a file cannot be part of a header.
        access_key=access_key.strip(),
        secret_key=secret_key.strip(),
        region=region,
        endpoint=endpoint,
        verify=not skip,
        x509_cert=x509_cert,
        x509_key=x509_key,
        session_token=config.token.strip(),
        found_in=where,
        is_of_profile=is_of_profile,
    )


def _found_in(config: AccessOptions, environ: Mapping[str, str]) -> str:
    """Where a pair comes from that is not a profile's, or the half of one that there is."""
    there = [key for key in ("access_key", "secret_key") if getattr(config, key)]
    names = [
        _variable(environ, key)
        for key in ("access_key", "secret_key")
        if key not in there and from_environment(environ, key)
    ]
    environment = f"the environment ({', '.join(names)})"
    if there and names:
        return f"the template ({there[0]}) and {environment}"
    return environment if names else "the template"


def _check_certificate(cert: str, key: str) -> None:
    """Raises BuildError where the files cannot be what the client shows to the API."""
    if key and not cert:
        raise BuildError(
            f"x509_key_path: {key} is set, but no certificate that it belongs to",
            hint="Set x509_cert_path too",
        )
    for option, name in (("x509_cert_path", cert), ("x509_key_path", key)):
        try:
            if name:
                read_named(name)
        except OSError as error:
            reason = error.strerror or "cannot be read"
            raise BuildError(
                f"{option}: {name}: {reason[0].lower()}{reason[1:]}",
                hint=f"Set {option} to a file in PEM",
            ) from error
    if not cert:
        return
    # Imported here: Prepare uses this module too, and this is a slow import.
    import ssl

    try:
        # A password is never asked for: the terminal is Packer's.
        ssl.create_default_context().load_cert_chain(cert, key or None, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            raise BuildError(
                f"x509_key_path: {key or cert}: holds another key than that of the certificate {cert}"
            ) from error
        both = f"{cert} and {key}" if key else cert
        raise BuildError(
            f"x509_cert_path: {both}: not a certificate with its private key, unencrypted, in PEM"
            f" ({getattr(error, 'reason', None) or error})",
            hint="" if key else "Set x509_key_path where the key is in a file of its own",
        ) from error


def _truth(value: str) -> bool:
    return value.lower() in ("1", "true", "yes")


def _profile(wanted: str, environ: Mapping[str, str]) -> Mapping[str, str]:
    """The chosen profile, flattened to our names. Nothing where nobody asked for one and none is.

    `wanted` is the option's.
    """
    asked = bool(wanted or environ.get("OSC_CONFIG_FILE") or environ.get("OSC_PROFILE"))
    home = environ.get("HOME") or os.path.expanduser("~")
    path = Path(environ.get("OSC_CONFIG_FILE") or _DEFAULT_FILE.replace("~", home, 1))
    name = wanted or environ.get("OSC_PROFILE") or "default"
    setting = "profile" if wanted else "OSC_PROFILE"
    try:
        document = json.loads(read_named(str(path)).decode())
    except FileNotFoundError:
        if not asked:
            return {}
        raise BuildError(
            f"profile file {path}: not found",
            hint="Correct OSC_CONFIG_FILE, or unset it, OSC_PROFILE and the option profile",
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        # Not the parser's own message: it may quote the file, and the file holds keys.
        reason = error.strerror if isinstance(error, OSError) else "not valid JSON"
        raise BuildError(
            f"profile file {path}: {reason}", hint="Mend or remove it, or correct OSC_CONFIG_FILE"
        ) from None
    profile = document.get(name) if isinstance(document, dict) else None
    if profile is None and not asked:
        return {}
    if not isinstance(profile, dict):
        known = ", ".join(sorted(document)) if isinstance(document, dict) else ""
        raise BuildError(
            f'profile file {path}: has no profile "{name}"',
            hint=f"Set {setting} to one of: {known}" if known else "Add it",
        )
    where = f'profile "{name}" in {path}'
    return {**_flatten(profile, where), "source": where}


def _flatten(profile: Mapping[str, Any], where: str) -> Mapping[str, str]:
    endpoints = profile.get("endpoints")
    endpoint = endpoints.get("api") if isinstance(endpoints, dict) else None
    if not endpoint and profile.get("host"):
        # osc-cli: host "outscale.com", https true, region_name.
        scheme = "http" if profile.get("https") is False else "https"
        region = profile.get("region_name") or profile.get("region") or ""
        endpoint = f"{scheme}://api.{region}.{profile['host']}/api/v1" if region else None
    found = {
        "access_key": profile.get("access_key"),
        "secret_key": profile.get("secret_key"),
        "region": profile.get("region") or profile.get("region_name"),
        "endpoint": endpoint,
        "x509_cert": profile.get("x509_client_cert") or profile.get("client_certificate"),
        "x509_key": profile.get("x509_client_key"),
        "tls_skip_verify": "true" if profile.get("tls_skip_verify") else None,
    }
    for key, value in found.items():
        # Not the value: it may be a secret.
        if value and not isinstance(value, str):
            kind = type(value).__name__
            raise BuildError(f"{where}: {key}: expected a string, found {kind}")
    return {key: value for key, value in found.items() if value}
