"""What a wrapper prints where files travel, or before it ends, as the user sees it."""

import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.host import agent_client
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


def test_a_line_without_an_end_takes_little_memory(tmp_path: Path) -> None:
    noise = "head -c 30000000 /dev/zero | tr '\\0' x >&2; exit 1; :"
    tracemalloc.start()
    try:
        with open_rootfs(Host(wrap=lambda command: f"{noise} {command}"), tmp_path) as files:
            with pytest.raises(BuildError, match="ended unexpectedly"):
                files.upload("/x", [b"x"], mode=0, token=CancelToken())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_transfer_that_goes_on_while_the_root_is_closed_writes_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever gets the numbers of the agent's pipes next."""
    monkeypatch.setattr(agent_client, "CLOSE_SECONDS", 0.2)
    root, others = tmp_path / "root", tmp_path / "others"
    root.mkdir()
    others.mkdir()
    begun, go_on = threading.Event(), threading.Event()
    failures: list[BuildError] = []

    def chunks() -> Iterator[bytes]:
        yield b"x" * 600_000
        begun.set()
        go_on.wait(10)
        yield b"x" * 600_000

    def upload() -> None:
        try:
            files.upload("/x", chunks(), mode=0, token=CancelToken())
        except BuildError as error:
            failures.append(error)

    with open_rootfs(Host(wrap=lambda command: command), root) as files:
        thread = threading.Thread(target=upload)
        thread.start()
        assert begun.wait(10)
    with ExitStack() as stack:
        for number in range(20):
            stack.enter_context((others / str(number)).open("w"))
        go_on.set()
        thread.join(10)
        assert not thread.is_alive()
        assert [each.stat().st_size for each in others.iterdir()] == [0] * 20
    assert "ended unexpectedly" in failures[0].message


def test_no_agent_is_started_once_the_root_is_being_unmounted(tmp_path: Path) -> None:
    """A provisioner's late transfer: the new agent would keep the mount busy until the service ends."""
    token = CancelToken()
    with open_rootfs(Host(wrap=lambda command: command), tmp_path) as files:
        files.upload("/x", [b"x"], mode=0, token=token)
    with pytest.raises(BuildError, match="the root is being unmounted"):
        files.upload("/late", [b"x"], mode=0, token=token)
    assert [each.name for each in tmp_path.iterdir()] == ["x"]
