"""The tree that a release is built from: a copy of what git knows of, with the release's version."""

import os
import re
import shutil
import subprocess
from pathlib import Path

IDENTITY = Path("packer_plugin_osc_chroot/version.py")


class SourceError(Exception):
    """The tree cannot be copied; the message is for the user."""


def commit_time(root: Path) -> int:
    """SOURCE_DATE_EPOCH, else the time of the last commit (seconds since 1970). Raises SourceError."""
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given:
        if not given.isdigit():
            raise SourceError(f"SOURCE_DATE_EPOCH is {given!r}: it has to be a number of seconds")
        return int(given)
    return int(_git(root, "log", "-1", "--format=%ct"))


def copy_tree(root: Path, copy: Path, *, epoch: int) -> None:
    """Every file that is tracked or could be; what is ignored stays behind. Raises SourceError."""
    if _git(root, "status", "--porcelain"):
        print("release: the tree has changes that are in no commit; they are in this release")
    names = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in sorted(set(names.split("\0")) - {""}):
        source, target = root / name, copy / name
        if not source.is_file():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
        # Some archives keep modes and times.
        target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)
        os.utime(target, (epoch, epoch))


def set_identity(copy: Path, *, version: str, owner: str) -> None:
    """Give the copy its version and owner. Raises SourceError."""
    file = copy / IDENTITY
    text = file.read_text(encoding="utf-8")
    for name, value in (("VERSION", version), ("OWNER", owner)):
        text, found = re.subn(rf'(?m)^{name} = ".*"$', f'{name} = "{value}"', text)
        if found != 1:
            raise SourceError(f"{IDENTITY} has no line {name} = …")
    file.write_text(text, encoding="utf-8")


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        raise SourceError("git is not on PATH: it tells which files make the release") from None
    if done.returncode != 0:
        raise SourceError(f"git {arguments[0]}: {done.stderr.strip()}")
    return done.stdout
