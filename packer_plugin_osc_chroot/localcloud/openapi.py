"""The official OpenAPI document of the OUTSCALE API, and the checks made from it.

osc-sdk-python carries the document as YAML, which takes about a second to parse; what the checks
need of it is kept as JSON in the user's cache under the hash of the YAML. A frozen bundle ships
that JSON ready-made, written by `python -m packer_plugin_osc_chroot.localcloud.openapi OUT`.
"""

import base64
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from importlib import resources
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from referencing import Registry
from referencing.jsonschema import DRAFT202012

Json = dict[str, Any]

_BUNDLED = "outscale.json"
_DOCUMENT_URI = "urn:outscale-openapi"
# Raised when what `condense` writes changes, so that an older cache is not read.
_CACHE_FORMAT = 1


@dataclass(frozen=True)
class Problem:
    """One way in which a body does not conform. `kind` is unknown, missing, type or value."""

    kind: str
    path: str
    message: str


@dataclass(frozen=True)
class Document:
    """What the checks need of the official document: actions, schemas and error names."""

    version: str
    actions: frozenset[str]
    unsigned_actions: frozenset[str]
    schemas: Mapping[str, Json]
    errors: Mapping[str, tuple[str, str]]

    def check_request(self, action: str, body: object) -> list[Problem]:
        return self._check(f"{action}Request", body)

    def check_response(self, action: str, body: object) -> list[Problem]:
        """Formats (dates, tokens) count too: what is wrong with them in a request, actions say."""
        return self._check(f"{action}Response", body, formats=_FORMATS)

    def check_error(self, body: object) -> list[Problem]:
        return self._check("ErrorResponse", body)

    def properties(self, schema: str) -> frozenset[str]:
        """The names that `schema` declares (`FiltersVolume`, …)."""
        return frozenset(self.schemas[schema].get("properties", {}))

    def _check(
        self, schema: str, body: object, *, formats: FormatChecker | None = None
    ) -> list[Problem]:
        errors = self._validator(schema, formats).iter_errors(body)
        return sorted((_problem(error) for error in errors), key=lambda problem: problem.path)

    def _validator(self, schema: str, formats: FormatChecker | None) -> Draft202012Validator:
        validator = self._validators.get(schema)
        if validator is None:
            validator = Draft202012Validator(
                {"$ref": f"{_DOCUMENT_URI}#/components/schemas/{schema}"},
                registry=self._registry,
                format_checker=formats,
            )
            self._validators[schema] = validator
        return validator

    @cached_property
    def _validators(self) -> dict[str, Draft202012Validator]:
        return {}

    @cached_property
    def _registry(self) -> Registry[Any]:
        resource = DRAFT202012.create_resource({"components": {"schemas": self.schemas}})
        registry: Registry[Any] = Registry().with_resource(_DOCUMENT_URI, resource)
        return registry


_FORMATS = FormatChecker(formats=())


@_FORMATS.checks("date-time", raises=ValueError)
def _is_date_time(value: object) -> bool:
    return not isinstance(value, str) or datetime.fromisoformat(value).tzinfo is not None


@_FORMATS.checks("byte", raises=ValueError)
def _is_base64(value: object) -> bool:
    return not isinstance(value, str) or bool(base64.b64decode(value, validate=True))


def _problem(error: ValidationError) -> Problem:
    path = ".".join(str(part) for part in error.absolute_path)
    match error.validator:
        case "additionalProperties":
            known: Json = error.schema["properties"] if isinstance(error.schema, Mapping) else {}
            extra = sorted(name for name in _mapping(error.instance) if name not in known)
            return Problem("unknown", path, f"unknown parameter {', '.join(extra)}")
        case "required":
            # jsonschema makes one error for each missing name, and names it first.
            name = error.message.split("'")[1]
            return Problem("missing", f"{path}.{name}".lstrip("."), f"{name} is required")
        case "type":
            return Problem(
                "type", path, f"{error.instance!r} is not of type {error.validator_value}"
            )
    return Problem("value", path, error.message)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def condense(api: Json, errors: Mapping[Any, Json]) -> Json:
    """The parts of the official YAML files that the checks need, as JSON."""
    actions = {}
    for path, operations in api["paths"].items():
        security = operations["post"].get("security", api.get("security", []))
        actions[path.removeprefix("/")] = {"signed": bool(security)}
    return {
        "version": api["info"]["version"],
        "actions": actions,
        "schemas": {
            name: _json_schema(schema) for name, schema in api["components"]["schemas"].items()
        },
        "errors": {
            str(error["Name"]).strip(): [str(code), error["Type"]]
            for code, error in reversed(list(errors.items()))
        },
    }


def _json_schema(schema: Any) -> Any:
    """An OpenAPI 3.0 schema as JSON Schema: `nullable` becomes a type, texts go."""
    if isinstance(schema, list):
        return [_json_schema(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "properties" in schema:
        properties = {name: _json_schema(value) for name, value in schema["properties"].items()}
        rest = _json_schema({k: v for k, v in schema.items() if k != "properties"})
        return {**rest, "properties": properties}
    texts = ("description", "example", "nullable", "deprecated")
    found = {key: _json_schema(value) for key, value in schema.items() if key not in texts}
    if schema.get("nullable"):
        found["type"] = [found["type"], "null"]
    return found


def load_document() -> Document:
    """The document: from the bundle, else from the cache, else parsed (about a second)."""
    bundled = resources.files("packer_plugin_osc_chroot.localcloud").joinpath(_BUNDLED)
    if bundled.is_file():
        return _document(json.loads(bundled.read_text(encoding="utf-8")))
    api, errors = _official_texts()
    cached = _cache_file(hashlib.sha256(api + b"\0" + errors).hexdigest())
    try:
        return _document(json.loads(cached.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError):
        pass
    condensed = condense(_parse(api), _parse(errors))
    try:
        _write_atomically(cached, json.dumps(condensed))
    except OSError:
        pass  # A cache that cannot be written costs a second at each start, nothing more.
    return _document(condensed)


def _document(condensed: Json) -> Document:
    actions: dict[str, Json] = condensed["actions"]
    return Document(
        version=condensed["version"],
        actions=frozenset(actions),
        unsigned_actions=frozenset(name for name, about in actions.items() if not about["signed"]),
        schemas=condensed["schemas"],
        errors={name: (code, kind) for name, (code, kind) in condensed["errors"].items()},
    )


def _official_texts() -> tuple[bytes, bytes]:
    # Not importlib.resources, which imports the package: that costs a quarter of a second.
    spec = find_spec("osc_sdk_python")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("osc-sdk-python is not installed: the localcloud needs it")
    folder = Path(spec.submodule_search_locations[0]) / "resources"
    return (
        (folder / "outscale.yaml").read_bytes(),
        (folder / "gateway_errors.yaml").read_bytes(),
    )


def _parse(text: bytes) -> Json:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    parsed: Json = yaml.load(text, Loader=loader)
    return parsed


def _cache_file(digest: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "packer-plugin-osc-chroot" / f"openapi-{_CACHE_FORMAT}-{digest}.json"


def _write_atomically(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def main(argv: list[str]) -> int:
    """Write the condensed document to the file named on the command line (for the bundle)."""
    if len(argv) != 1:
        print("usage: python -m packer_plugin_osc_chroot.localcloud.openapi OUT", file=sys.stderr)
        return 2
    api, errors = _official_texts()
    text = json.dumps(condense(_parse(api), _parse(errors)), sort_keys=True)
    _write_atomically(Path(argv[0]), text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
