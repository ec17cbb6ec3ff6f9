"""The errors that the API answers with: raised by name, turned into code and type in one place."""

from collections.abc import Mapping

from packer_plugin_osc_chroot.localcloud import assumptions
from packer_plugin_osc_chroot.localcloud.openapi import Json, Problem


class ApiError(Exception):
    """A refusal. `name` is OUTSCALE's own name of the error (`no-such-volume`, …)."""

    def __init__(self, name: str, details: str) -> None:
        super().__init__(details)
        self.name = name
        self.details = details


def refusal(name: str, details: str, *, known: Mapping[str, tuple[str, str]]) -> tuple[int, Json]:
    """HTTP status and `Errors` entry of the error `name`; `known` is the official table."""
    code, kind = assumptions.ERRORS.get(name) or known[name]
    return (
        assumptions.STATUS_OF_TYPE.get(kind, 400),
        {"Code": code, "Type": kind, "Details": details},
    )


def error_of_problem(problem: Problem) -> ApiError:
    """The error for a request that does not conform to the document."""
    where = f" ({problem.path})" if problem.path else ""
    match problem.kind:
        case "unknown":
            return ApiError("unknown-parameter", f"The request has an {problem.message}{where}.")
        case "missing":
            return ApiError("missing-parameter", f"The parameter {problem.path} is required.")
        case "type":
            return ApiError("invalid-parameter-type", f"The value {problem.message}{where}.")
    return ApiError("invalid-parameter-value", f"The value is invalid: {problem.message}{where}.")
