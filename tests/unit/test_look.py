"""What is said of this machine and of the account before anything is made."""

import os
import threading
import time
from pathlib import Path
from typing import Any, cast

import pytest

from packer_plugin_osc_chroot import look
from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.cloud.metadata import Identity
from packer_plugin_osc_chroot.errors import BuildError, Cancelled
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.ui import RecordingUi

NO_FILES = Config(copy_files=())


def test_a_normal_user_needs_a_wrapper(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(look, "find_program", lambda name: f"/bin/{name}")
    with pytest.raises(BuildError, match="needs root.*command_wrapper"):
        look.check_host(NO_FILES, is_wrapped=False)
    look.check_host(NO_FILES, is_wrapped=True)


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "find_program", lambda name: None if name == "mount" else name)
    with pytest.raises(BuildError, match="the program mount is not on this machine.*util-linux"):
        look.check_host(NO_FILES, is_wrapped=True)


def test_copy_files_must_be_files_or_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(look, "find_program", lambda name: name)
    special = tmp_path / "pipe"
    os.mkfifo(special)
    look.check_host(Config(copy_files=(str(tmp_path),)), is_wrapped=True)
    for path, text in (
        (special, "is neither a file nor a folder"),
        (tmp_path / "none", "no such file"),
    ):
        with pytest.raises(BuildError, match=f"copy_files: {path}: {text}"):
            look.check_host(Config(copy_files=(str(path),)), is_wrapped=True)


class SlowCloud:
    """No image is shown, and what else is asked for takes long: only a cancel ends it."""

    region = "eu-west-2"

    def __init__(self, *, image_seconds: float = 0.0) -> None:
        self._image_seconds = image_seconds

    def one(self, action: str, key: str, *, token: CancelToken, **filters: Any) -> Any:
        if action == "ReadVms":
            return {}
        token.sleep(self._image_seconds)
        return None

    def slow(self, *args: Any, token: CancelToken, **body: Any) -> Any:
        token.sleep(20.0)

    read = pages = trial = slow


def look_at(cloud: SlowCloud, token: CancelToken) -> None:
    config = Config(source_omi="ami-12345678", omi_name="x", copy_files=())
    identity = Identity(vm_id="i-1", subregion="eu-west-2a")
    look.look(
        cast(Cloud, cloud), config, identity, check_region=False, token=token, ui=RecordingUi()
    )


def test_what_else_is_asked_ends_when_one_answer_fails() -> None:
    begun = time.monotonic()
    token = CancelToken()
    with pytest.raises(BuildError, match="source_omi ami-12345678 does not exist"):
        look_at(SlowCloud(), token)
    assert time.monotonic() - begun < 2.0
    assert not token.cancelled


def test_a_cancel_ends_what_is_asked_and_says_why() -> None:
    begun = time.monotonic()
    token = CancelToken()
    threading.Timer(0.2, token.cancel, ["Packer is gone"]).start()
    with pytest.raises(Cancelled, match="Packer is gone"):
        look_at(SlowCloud(image_seconds=20.0), token)
    assert time.monotonic() - begun < 2.0
