"""Follows a trouble file: what is written into it while a Region runs holds from then on."""

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path

from packer_plugin_osc_chroot.localcloud.toml_file import FileError
from packer_plugin_osc_chroot.localcloud.trouble import Trouble, load_trouble

_LOOK_EVERY = 0.2


async def follow(
    file: Path,
    *,
    actions: Collection[str],
    changed: Callable[[Trouble], None],
    tell: Callable[[str], None],
) -> None:
    """For ever. A file that is wrong, or gone, is told of once; the trouble stays what it was."""
    seen = _stamp(file)
    while True:
        await asyncio.sleep(_LOOK_EVERY)
        now = _stamp(file)
        if now == seen:
            continue
        seen = now
        try:
            changed(load_trouble(file, actions=actions))
        except FileError as error:
            tell(f"{error}; the trouble stays as it was")
        else:
            tell(f"{file}: read again")


def _stamp(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
