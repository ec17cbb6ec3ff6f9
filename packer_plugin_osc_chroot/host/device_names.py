"""The names under which volumes are linked to a VM, as the API takes them.

Source: LinkVolume in the OUTSCALE API document; OUTSCALE's CSI driver for the forms that a VM shows.
"""

import string
from collections.abc import Collection, Iterator
from pathlib import Path

from packer_plugin_osc_chroot.options.devices import letters

# The most volumes that a VM holds, its own among them (OUTSCALE user guide).
VM_VOLUMES = 40


def free_names(taken: Collection[str], *, dev: Path = Path("/dev")) -> Iterator[str]:
    """Device names to link as, best first: /dev/xvdb to z, then ba to bz.

    `taken` are the device names of the VM's mappings. A name whose letters the kernel shows as a disk
    here comes after those that nobody uses, since another disk may carry it by chance.
    """
    used = {letters(name) for name in taken}
    candidates = [*string.ascii_lowercase[1:], *(f"b{c}" for c in string.ascii_lowercase)]
    free = [name for name in candidates if name not in used]
    shown = [x for x in free if any((dev / f"{p}{x}").exists() for p in ("xvd", "sd"))]
    for name in free:
        if name not in shown:
            yield f"/dev/xvd{name}"
    for name in shown:
        if not (dev / f"xvd{name}").exists():
            yield f"/dev/xvd{name}"
