"""Rules for what signs the calls, and where they go. What the environment adds to a template counts."""

from collections.abc import Mapping
from typing import Any

from packer_plugin_osc_chroot.cloud.credentials import (
    MFA_PROBLEM,
    endpoint_problem,
    from_environment,
    half_pair_problem,
)
from packer_plugin_osc_chroot.options.decode import holds_unknown
from packer_plugin_osc_chroot.options.report import Report


def check_access(values: Mapping[str, Any], environ: Mapping[str, str], report: Report) -> None:
    """`values` are decoded, by name; what is not set is missing."""
    if problem := half_pair_problem(values, environ):
        name, _, text = problem.partition(": ")
        if not report.has_failed(name):
            report.error(name, text)
    if problem := endpoint_problem(values.get("custom_endpoint_oapi", "")):
        report.error("custom_endpoint_oapi", problem)
    # What a profile holds is not read before the build.
    for name, key, with_ in (
        # A certificate may have its key in the same file, so it goes without x509_key_path.
        ("x509_cert_path", "x509_cert", "x509_key_path"),
        ("access_key", "access_key", "token"),
    ):
        there = values.get(name) or values.get("profile") or from_environment(environ, key)
        if values.get(with_) and not there and not report.has_failed(name):
            report.error(
                name, f"required with {with_}, and set neither here nor in the environment"
            )
    if (code := values.get("mfa_code")) and not holds_unknown(code):
        report.error("mfa_code", f"{MFA_PROBLEM}; remove it")
