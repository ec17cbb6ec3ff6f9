"""Texts that validate must refuse: templates that fail or never end, characters that nothing takes."""

from collections.abc import Iterator, Mapping
from typing import Any

from wrong_configurations import GOOD, Wrong, inside, value_of

from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.options.declaration import Kind, options_of


def wrong_templates() -> Iterator[Wrong]:
    """Every option that may hold a template, given one that does not compile."""
    holders: Mapping[Kind, Any] = {
        Kind.STRING: lambda text: text,
        Kind.DURATION: lambda text: text,
        Kind.BOOL: lambda text: text,
        Kind.INT: lambda text: text,
        Kind.STRINGS: lambda text: [text],
        Kind.TUPLES: lambda text: [[text, "b", "/c"]],
        Kind.STRING_MAP: lambda text: {"key": text},
    }
    steps = {Kind.STRINGS: "[0]", Kind.TUPLES: "[0][0]", Kind.STRING_MAP: ".key"}
    for top in options_of(Config):
        for row, path, put in inside(top):
            if hold := holders.get(row.kind):
                where = path + steps.get(row.kind, "")
                yield Wrong(where, "not defined", {**GOOD, **put(hold("{{nofunction}}"))})
                yield Wrong(where, "unclosed action", {**GOOD, **put(hold("a {{.Device"))})


ENDLESS = (
    "{{define `a`}}{{template `a`}}{{end}}{{template `a`}}",
    "{{$x := `aaaa`}}{{range 64}}{{$x = print $x $x}}{{end}}",
    "{{range 1000000000}}{{end}}",
    "{{$x := `<`}}" + "{{$x = printf `%q%q` $x $x}}" * 60,
)


def endless_templates() -> Iterator[Wrong]:
    """Templates that would never end, in an option rendered at once and in late ones."""
    for template in ENDLESS:
        for path, options in (
            ("omi_name", {"omi_name": template}),
            ("omi_description", {"omi_description": template}),
            ("tags.a", {"tags": {"a": template}}),
            ("mount_path", {"mount_path": f"/mnt/{template}"}),
            ("pre_mount_commands[0]", {"pre_mount_commands": [template]}),
            ("command_wrapper", {"command_wrapper": template + "{{.Command}}"}),
        ):
            yield Wrong(path, "template", {**GOOD, **options})


def wrong_texts() -> Iterator[Wrong]:
    """Characters that nothing takes, written so and made by a template; every option that is text."""
    nul = "holds a NUL character"
    holders: Mapping[Kind, tuple[Any, str]] = {
        Kind.STRING: (lambda text: text, ""),
        Kind.STRINGS: (lambda text: ["/a", text], "[1]"),
        Kind.TUPLES: (lambda text: [["proc", "proc", text]], "[0][2]"),
        Kind.STRING_MAP: (lambda text: {"a": text}, ".a"),
    }
    for top in options_of(Config):
        for row, path, put in inside(top):
            if row.kind in holders:
                hold, step = holders[row.kind]
                yield Wrong(path + step, nul, {**GOOD, **put(hold("/a\0b"))})
                yield Wrong(path + step, nul, {**GOOD, **put(hold(r'/a{{"\x00"}}b'))})
                yield Wrong(path + step, "valid UTF-8", {**GOOD, **put(hold(r'/a{{"\xff"}}b'))})
    yield value_of("tags", {"a\0": "x"}, nul)
    yield value_of("copy_files", "/etc/hosts,/a\0b", nul)
    yield value_of("mount_path", "/", "must be a folder below /")
    yield value_of("mount_path", "//", "must be a folder below /")
    yield value_of("mount_path", "/mnt/..", "must be a folder below /")
    yield value_of("mount_path", "/mnt/.././.", "must be a folder below /")
    yield value_of("mount_path", "/{{`mnt`}}/..", "must be a folder below /")
    yield value_of("mount_path", "{{`mnt`}}", "must be an absolute path")
    yield value_of("chroot_mounts[0]", [["proc", "proc", "/."]], "must name a mount point below /")
    yield value_of("copy_files[0]", ["/etc/.."], "must be the absolute path of a file")
    yield value_of("omi_description", "a\x07b", r"may hold no control characters, found '\x07'")
    yield value_of(
        "omi_description", r'{{"\x1b"}}', r"may hold no control characters, found '\x1b'"
    )
    yield value_of(
        "command_wrapper", "sudo {{if false}}{{.Command}}{{end}}", "must hold {{.Command}}"
    )


def wrong_at_any_data() -> Iterator[Wrong]:
    """Late templates that fail whatever the build's data is."""
    yield value_of("tags.a", {"a": "{{build `ID`}}"}, 'build data "ID" is not available here')
    yield value_of("tags.a", {"a": "{{template_dir}}"}, "template_dir is not available here")
    yield value_of("omi_description", "{{split `a` `,` 1}}", "split: there is no part 1")
    yield value_of("pre_mount_commands[0]", ["{{index `abc` 3}}"], "index out of range: 3")


def all_wrong_texts() -> list[Wrong]:
    """All of this module."""
    return [*wrong_templates(), *endless_templates(), *wrong_texts(), *wrong_at_any_data()]
