"""The processes of a build that may be killed, found below packer."""

from pathlib import Path

from packer_run import Running


def wrapper(build: Running) -> int:
    return build.pid


def core(build: Running) -> int:
    """The child of packer's wrapper, which is the plugin's parent."""
    return build.children()[0]


def shims(build: Running) -> list[int]:
    return [pid for pid in build.children() if {b"start", b"builder"} <= _words(pid)]


def services(build: Running) -> list[int]:
    return [pid for pid in build.children() if b"serve" in _words(pid)]


def shim(build: Running) -> int:
    return shims(build)[0]


def service(build: Running) -> int:
    return services(build)[0]


def _words(pid: int) -> set[bytes]:
    try:
        return set(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"))
    except OSError:
        return set()
