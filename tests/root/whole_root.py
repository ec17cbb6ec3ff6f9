"""A root as a build has it while provisioners run: mounted, with what goes below it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.mounts import ExtraMount, extra_mounts, mounted_root
from packer_plugin_osc_chroot.host.transfer import RootFs, open_rootfs
from packer_plugin_osc_chroot.ui import RecordingUi

DEFAULTS = [
    ExtraMount("proc", "proc", "/proc"),
    ExtraMount("sysfs", "sysfs", "/sys"),
    ExtraMount("bind", "/dev", "/dev"),
    ExtraMount("devpts", "devpts", "/dev/pts"),
    ExtraMount("binfmt_misc", "binfmt_misc", "/proc/sys/fs/binfmt_misc"),
]


@contextmanager
def whole_root(
    device: str,
    target: Path,
    *,
    host: Host | None = None,
    mounts: list[ExtraMount] = DEFAULTS,
    ui: RecordingUi | None = None,
    token: CancelToken | None = None,
) -> Iterator[tuple[Path, RootFs]]:
    host, ui = host or Host(), ui or RecordingUi()
    token = token or CancelToken()
    with ExitStack() as stack:
        root = stack.enter_context(
            mounted_root(host, device, str(target), options=["noatime", "rw"], ui=ui, token=token)
        )
        rootfs = stack.enter_context(open_rootfs(host, root))
        stack.enter_context(extra_mounts(host, root, rootfs, mounts, ui=ui, token=token))
        yield root, rootfs
