"""This machine, without the network: privileges, programs, filesystems, names, room."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from packer_plugin_osc_chroot.doctor.finding import Finding, ok, problem, warning
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.host.commands import (
    PROGRAMS,
    find_program,
    package_of,
    tool_environment,
)
from packer_plugin_osc_chroot.host.device_names import VM_VOLUMES, free_names
from packer_plugin_osc_chroot.look import check_copied
from packer_plugin_osc_chroot.options.config import DEFAULT_CHROOT_MOUNTS, DEFAULT_COPY_FILES

PROC = Path("/proc")
DEV = Path("/dev")
_NAME = "packer-plugin-osc-chroot"
# The bits of what a build needs to do (capability(7)).
_CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_KILL": 5,
    "CAP_SYS_CHROOT": 18,
    "CAP_SYS_ADMIN": 21,
}
# A build goes without it.
_OPTIONAL_MOUNT = "binfmt_misc"
_ROOT_FILESYSTEMS = ("ext4", "xfs", "btrfs")
# One version of the service unpacked (74 MB), with room for the next one beside it.
_CACHE_MIB = 160
_COMMAND_SECONDS = 10.0


def check_privileges(*, proc: Path = PROC) -> Finding:
    """Root with what containers may take away; or sudo that asks nothing."""
    name = "privileges"
    if os.geteuid() != 0:
        if _sudo_works():
            return ok(
                name, 'not root, but sudo asks nothing: set command_wrapper = "sudo {{.Command}}"'
            )
        return problem(
            name,
            "not root, and sudo wants a password or is not there",
            "Run packer as root, or let this user run sudo without a password and set"
            ' command_wrapper = "sudo {{.Command}}"',
        )
    missing = [each for each, bit in _CAPABILITIES.items() if not _effective(proc) >> bit & 1]
    if missing:
        return problem(
            name,
            f"root, but without {', '.join(missing)}",
            "Run packer on the VM itself, or in a privileged container",
        )
    return ok(name, "root, and may mount and chroot")


def _effective(proc: Path) -> int:
    """The capabilities of this process; all of them where the kernel does not say."""
    try:
        lines = (proc / "self/status").read_text().splitlines()
    except OSError:
        return -1
    return next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), -1)


def _sudo_works() -> bool:
    return _succeeds(["sudo", "-n", "true"], inherit=True)


def _succeeds(argv: Sequence[str], *, inherit: bool) -> bool:
    """Whether a program is here, and soon ends well; `inherit` as for `tool_environment`."""
    program = find_program(argv[0])
    if program is None:
        return False
    try:
        done = subprocess.run(
            [program, *argv[1:]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=tool_environment(inherit=inherit),
            timeout=_COMMAND_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def check_programs() -> Finding:
    missing = [program for program in PROGRAMS if find_program(program) is None]
    if not missing:
        return ok("programs", f"{', '.join(PROGRAMS)} are here")
    packages = sorted({package_of(program) for program in missing})
    return problem(
        "programs",
        f"{', '.join(missing)} not on this machine",
        f"Install {', '.join(packages)}",
    )


def check_filesystems(*, proc: Path = PROC) -> Iterator[Finding]:
    """What chroot_mounts needs by default, and which roots can be mounted."""
    known = _filesystems(proc)
    wanted = [kind for kind, _, _ in DEFAULT_CHROOT_MOUNTS if kind != "bind"]
    missing = [kind for kind in wanted if kind not in known and not _has_module(kind)]
    needed = [kind for kind in missing if kind != _OPTIONAL_MOUNT]
    if needed:
        yield problem(
            "default mounts",
            f"this kernel has no {', '.join(needed)}",
            "Set chroot_mounts to what it has",
        )
    elif missing:
        yield warning(
            "default mounts",
            f"this kernel has no {_OPTIONAL_MOUNT}: a build warns and goes without it",
            "Load the module, or set chroot_mounts without it",
        )
    else:
        yield ok("default mounts", f"the kernel has {', '.join(wanted)}")
    roots = [kind for kind in _ROOT_FILESYSTEMS if kind in known or _has_module(kind)]
    if roots:
        yield ok("root filesystems", f"OMIs whose root is {', '.join(roots)} can be built on")
    else:
        yield problem(
            "root filesystems",
            f"this kernel has none of {', '.join(_ROOT_FILESYSTEMS)}",
            "Install the kernel's modules",
        )


def _filesystems(proc: Path) -> set[str]:
    try:
        return {line.split()[-1] for line in (proc / "filesystems").read_text().splitlines()}
    except OSError:
        return set()


def _has_module(name: str) -> bool:
    return _succeeds(["modprobe", "--dry-run", "--quiet", name], inherit=False)


def check_copy_files() -> Finding:
    """The default of copy_files; a template may name other files."""
    files = ", ".join(DEFAULT_COPY_FILES)
    try:
        for path in DEFAULT_COPY_FILES:
            check_copied(Path(path), is_wrapped=False)
    except BuildError as error:
        return problem("copy_files", error.message.removeprefix("copy_files: "), error.hint)
    return ok("copy_files", f"{files} can be copied")


def check_device_names(taken: Collection[str] | None, *, dev: Path = DEV) -> Finding:
    """`taken` are the names of the VM's mappings; None where the API does not tell."""
    name = "device names"
    free = list(free_names(taken or (), dev=dev))
    if taken is not None and len(taken) >= VM_VOLUMES:
        return problem(
            name,
            f"this VM holds {len(taken)} volumes, and no VM holds more than {VM_VOLUMES}",
            "Unlink volumes that are not needed",
        )
    if not free:
        return problem(
            name,
            "none is free (of /dev/xvdb to z, ba to bz)",
            "Unlink volumes that are not needed",
        )
    if taken is None:
        return ok(name, f"{len(free)} are free as far as this machine shows; the next is {free[0]}")
    room = min(len(free), VM_VOLUMES - len(taken))
    return ok(name, f"{room} more volumes can be linked; the next is {free[0]}")


def check_cache(environ: Mapping[str, str]) -> Finding:
    """Where the plugin unpacks its service: the first of the places that it tries (the shim's)."""
    reasons = []
    for path in _caches(environ):
        if reason := unusable(path):
            reasons.append(f"{path}: {reason}")
            continue
        if (free := free_mib(path)) < _CACHE_MIB:
            return warning(
                "cache",
                f"{path} has {free} MiB of free space, and a new version of the plugin needs"
                f" {_CACHE_MIB}",
                "Free some, or set XDG_CACHE_HOME to another place",
            )
        return ok("cache", f"{path} ({free} MiB free)")
    return problem("cache", "; ".join(reasons), "Set XDG_CACHE_HOME to a folder of this user")


def _caches(environ: Mapping[str, str]) -> list[Path]:
    if getattr(sys, "frozen", False):
        # It has been unpacked already: PLACE/HASH/PROGRAM.
        return [Path(sys.executable).parent.parent]
    found = []
    if os.path.isabs(cache := environ.get("XDG_CACHE_HOME", "")):
        found.append(Path(cache) / _NAME)
    elif os.path.isabs(home := environ.get("HOME", "")):
        found.append(Path(home) / ".cache" / _NAME)
    if os.geteuid() == 0:
        found.append(Path("/var/cache") / _NAME)
    return [*found, Path(tempfile.gettempdir()) / f"{_NAME}-{os.geteuid()}"]


def unusable(path: Path) -> str:
    """Why a folder cannot be used or made; "" where it can. Nothing is made."""
    existing = path
    while not os.path.lexists(existing):
        existing = existing.parent
    if not existing.is_dir():
        return f"{existing} is no folder"
    if os.statvfs(existing).f_flag & os.ST_RDONLY:
        return "is on a read-only filesystem"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"this user may not write to {existing}"
    return ""


def free_mib(path: Path) -> int:
    """Free space, in MiB, where a folder is or will be."""
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free >> 20
