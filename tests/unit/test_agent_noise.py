"""What a wrapper prints where files travel, or before it ends, as the user sees it."""

from pathlib import Path

import pytest

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.transfer import open_rootfs
from packer_plugin_osc_chroot.ui import printable

RED = "\\033[31m"


@pytest.mark.parametrize(
    ("wrapper", "text"),
    [
        (f"printf '{RED}no\\b password\\n' >&2; exit 1; :", "?[31mno? password"),
        (f"printf '{RED}Welcome\\a!\\nMore\\n'; :", '"?[31mWelcome?!"'),
        ("printf '\\n\\nWelcome\\n'; :", '"Welcome"'),
    ],
    ids=["standard error", "standard output", "blank lines first"],
)
def test_control_characters_are_not_shown(tmp_path: Path, wrapper: str, text: str) -> None:
    with open_rootfs(Host(wrap=lambda command: f"{wrapper} {command}"), tmp_path) as files:
        with pytest.raises(BuildError) as caught:
            files.upload("/x", [b"x"], mode=0, token=CancelToken())
    assert text in str(caught.value)
    shown = [str(caught.value), *caught.value.details]
    assert all(line == printable(line) for line in shown)


def test_no_agent_is_started_once_the_root_is_being_unmounted(tmp_path: Path) -> None:
    """A provisioner's late transfer: the new agent would keep the mount busy until the service ends."""
    token = CancelToken()
    with open_rootfs(Host(wrap=lambda command: command), tmp_path) as files:
        files.upload("/x", [b"x"], mode=0, token=token)
    with pytest.raises(BuildError, match="the root is being unmounted"):
        files.upload("/late", [b"x"], mode=0, token=token)
    assert [each.name for each in tmp_path.iterdir()] == ["x"]
