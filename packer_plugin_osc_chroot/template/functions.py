"""Packer's template functions, and the builder's own clean_resource_name and clean_omi_name."""

import os
import secrets
import time
from collections.abc import Callable

from packer_plugin_osc_chroot.template.errors import MAX_VALUE, NeverRenders, TemplateError
from packer_plugin_osc_chroot.template.quoting import is_raw_byte
from packer_plugin_osc_chroot.template.scope import Call, Function, Parameter
from packer_plugin_osc_chroot.template.timelayout import RFC3339, format_layout, format_strftime
from packer_plugin_osc_chroot.template.values import GoMap, from_bytes, join, to_bytes

_BUILD_PLACEHOLDER = (
    "To set this dynamically in the Packer template, you must use the `build` function"
)
"""What Packer puts into a provisioner's data in place of each value that only a build knows."""

_NAME_CHARACTERS = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789()[] ./-'@_"
)


def _available(name: str, value: str) -> str:
    if not value:
        raise NeverRenders(f"{name} is not available here")
    return value


def _build_name(call: Call) -> str:
    return _available("build_name", call.scope.build_name)


def _build_type(call: Call) -> str:
    return _available("build_type", call.scope.build_type)


def _packer_version(call: Call) -> str:
    return _available("packer_version", call.scope.packer_version)


def _template_dir(call: Call) -> str:
    path = _available("template_dir", call.scope.template_path)
    return os.path.abspath(os.path.dirname(path) or ".").replace("//", "/")


def _pwd(_call: Call) -> str:
    return os.getcwd()


def _timestamp(call: Call) -> str:
    return str(int(call.scope.started_at.timestamp()))


def _isotime(call: Call, *layouts: str) -> str:
    if len(layouts) > 1:
        raise TemplateError(f"isotime takes one layout, not {len(layouts)}")
    return format_layout(layouts[0] if layouts else RFC3339, call.scope.started_at)


def _strftime(call: Call, text: str) -> str:
    return format_strftime(text, call.scope.started_at)


def _uuid(_call: Call) -> str:
    """A UUID that sorts by time: 32 bits of seconds, 96 random ones."""
    digits = f"{int(time.time()) & 0xFFFFFFFF:08x}{secrets.token_hex(12)}"
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _user(call: Call, name: str) -> str:
    variables = call.scope.user_variables
    if variables is None:
        raise NeverRenders(
            f'there are no user variables: `user` cannot give "{name}"',
            hint="In an HCL2 template write var.NAME or local.NAME instead",
        )
    return variables.get(name, "")


def _build(call: Call, name: str) -> str:
    if not isinstance(call.data, GoMap):
        raise NeverRenders(f'build data "{name}" is not available here')
    entry = call.data.entries.get(name)
    if not isinstance(entry, str):
        raise TemplateError(f'there is no build data named "{name}"')
    return f"{{{{.{name}}}}}" if _BUILD_PLACEHOLDER in entry else entry


def _split(_call: Call, text: str, separator: str, index: int) -> str:
    parts: list[str] | list[bytes]
    if separator:
        parts = to_bytes(text).split(to_bytes(separator))
    else:
        parts = list(text)
    if not 0 <= index < len(parts):
        raise TemplateError(f"split: there is no part {index}, only {len(parts)} parts were found")
    part = parts[index]
    return part if isinstance(part, str) else from_bytes(part)


def _replace(_call: Call, old: str, new: str, count: int, text: str) -> str:
    limit = -1 if count < 0 else count
    found = text.count(old) if limit < 0 else min(limit, text.count(old))
    if len(text) + found * (len(new) - len(old)) > MAX_VALUE:
        raise NeverRenders("replace makes a text that is too long")
    if not old or (old.isascii() and new.isascii()):
        return join([text.replace(old, new, limit)])
    # Go searches bytes: part of a character may be found in another.
    return from_bytes(to_bytes(text).replace(to_bytes(old), to_bytes(new), limit))


def _replace_all(call: Call, old: str, new: str, text: str) -> str:
    return _replace(call, old, new, -1, text)


def _upper_rune(character: str) -> str:
    if is_raw_byte(character):
        return "\ufffd"
    upper = character.upper()
    # Where the full mapping is several characters, the simple one is the title case or none.
    if len(upper) > 1:
        upper = character.title()
    return upper if len(upper) == 1 else character


def _lower_rune(character: str) -> str:
    if is_raw_byte(character):
        return "\ufffd"
    return character.lower()[0]


def _upper(_call: Call, text: str) -> str:
    return text.upper() if text.isascii() else "".join(map(_upper_rune, text))


def _lower(_call: Call, text: str) -> str:
    return text.lower() if text.isascii() else "".join(map(_lower_rune, text))


def _clean_name(_call: Call, text: str) -> str:
    return "".join(chr(byte) if byte in _NAME_CHARACTERS else "-" for byte in to_bytes(text))


def _refused(reason: str) -> Callable[..., str]:
    def refuse(_call: Call, *_arguments: str) -> str:
        raise NeverRenders(reason)

    return refuse


_STRING, _INT = Parameter.STRING, Parameter.INT
_VARIABLES_ONLY = "is only allowed in the variables section of a template"
_SIGNATURES: tuple[tuple[str, tuple[Parameter, ...], Parameter | None, Callable[..., str]], ...] = (
    ("build_name", (), None, _build_name),
    ("build_type", (), None, _build_type),
    ("packer_version", (), None, _packer_version),
    ("template_dir", (), None, _template_dir),
    ("pwd", (), None, _pwd),
    ("timestamp", (), None, _timestamp),
    ("isotime", (), _STRING, _isotime),
    ("strftime", (_STRING,), None, _strftime),
    ("uuid", (), None, _uuid),
    ("user", (_STRING,), None, _user),
    ("build", (_STRING,), None, _build),
    ("split", (_STRING, _STRING, _INT), None, _split),
    ("replace", (_STRING, _STRING, _INT, _STRING), None, _replace),
    ("replace_all", (_STRING, _STRING, _STRING), None, _replace_all),
    ("upper", (_STRING,), None, _upper),
    ("lower", (_STRING,), None, _lower),
    ("clean_resource_name", (_STRING,), None, _clean_name),
    ("clean_omi_name", (_STRING,), None, _clean_name),
    ("env", (_STRING,), None, _refused(f"env {_VARIABLES_ONLY}")),
    ("consul_key", (_STRING,), None, _refused(f"consul_key {_VARIABLES_ONLY}")),
    ("vault", (_STRING, _STRING), None, _refused(f"vault {_VARIABLES_ONLY}")),
    (
        "aws_secretsmanager",
        (),
        _STRING,
        _refused(f"aws_secretsmanager {_VARIABLES_ONLY}"),
    ),
    (
        "aws_secretsmanager_raw",
        (_STRING,),
        None,
        _refused(f"aws_secretsmanager_raw {_VARIABLES_ONLY}"),
    ),
    (
        "sed",
        (_STRING, _STRING),
        None,
        _refused("sed is not available any more: use replace or replace_all"),
    ),
)

PACKER_FUNCTIONS = {signature[0]: Function(*signature) for signature in _SIGNATURES}
