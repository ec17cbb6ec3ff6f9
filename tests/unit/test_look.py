"""What is said of this machine before anything is made."""

import os
from pathlib import Path

import pytest

from packer_plugin_osc_chroot import look
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.options.config import Config

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


def test_copy_files_must_be_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(look, "find_program", lambda name: name)
    for path, text in ((tmp_path, "is not a file"), (tmp_path / "none", "no such file")):
        with pytest.raises(BuildError, match=f"copy_files: {path}: {text}"):
            look.check_host(Config(copy_files=(str(path),)), is_wrapped=True)
