"""Paths inside a root lead where the kernel would lead a chrooted process, and nowhere else."""

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from packer_plugin_osc_chroot.host.rooted import Rooted


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "outside").write_text("secret")
    top = tmp_path / "root"
    (top / "a/b").mkdir(parents=True)
    (top / "file").write_text("inside")
    (top / "a/file").write_text("inside")
    for name, target in {
        "abs": "/a/b",
        "up": "../../../../a",
        "a/b/far": "../../../../../../file",
        "out": str(tmp_path / "outside"),
        "dangling": "/a/new",
        "loop": "loop2",
        "loop2": "/loop",
        "slash": "a/",
        "fileslash": "file/",
        "a/self": ".",
        "top": "/",
    }.items():
        (top / name).symlink_to(target)
    return top


@pytest.mark.parametrize(
    ("path", "real"),
    [
        ("/", "/"),
        ("a/b", "/a/b"),
        ("/../../a//./b/", "/a/b"),
        ("/abs/../file", "/a/file"),
        ("/up/b", "/a/b"),
        ("/abs/far", "/file"),
        ("/top/../top/a/self/self/b", "/a/b"),
        ("/dangling", "/a/new"),
        ("/slash", "/a"),
        ("/new", "/new"),
        ("..", "/"),
    ],
)
def test_found(root: Path, path: str, real: str) -> None:
    with Rooted(str(root)) as rooted, rooted.find(path) as spot:
        assert spot.real == real
        expected = root / real.lstrip("/")
        assert (spot.stat is not None) == expected.exists()
        if spot.stat is not None:
            assert spot.stat.st_ino == expected.stat().st_ino


@pytest.mark.parametrize(
    ("path", "number", "named"),
    [
        ("", errno.ENOENT, ""),
        ("/missing/x", errno.ENOENT, "/missing"),
        ("/out", errno.ENOENT, None),
        ("/file/x", errno.ENOTDIR, "/file"),
        ("/file/", errno.ENOTDIR, "/file"),
        ("/fileslash", errno.ENOTDIR, "/file"),
        ("/loop", errno.ELOOP, "/loop"),
        ("/missing/..", errno.ENOENT, "/missing"),
        ("/a\0b", errno.EINVAL, "/a\\0b"),
        ("/" + "n" * 300, errno.ENAMETOOLONG, "/" + "n" * 300),
    ],
)
def test_refused(root: Path, path: str, number: int, named: str | None) -> None:
    with Rooted(str(root)) as rooted, pytest.raises(OSError) as caught:
        with rooted.find(path):
            pass
    assert caught.value.errno == number
    if named is not None:
        assert caught.value.filename == named


def test_last_symlink_itself(root: Path) -> None:
    with Rooted(str(root)) as rooted:
        with rooted.find("/abs", follow=False) as spot:
            assert spot.real == "/abs"
            assert spot.stat is not None and stat.S_ISLNK(spot.stat.st_mode)
        with rooted.find("/abs/", follow=False) as spot:
            assert spot.real == "/a/b"


def test_no_descriptor_stays_open(root: Path) -> None:
    with Rooted(str(root)) as rooted:
        before = len(os.listdir("/proc/self/fd"))
        for path in ("/abs/../file", "/loop", "/file/x", "/missing/x", "/new"):
            try:
                with rooted.find(path):
                    pass
            except OSError:
                pass
        assert len(os.listdir("/proc/self/fd")) == before


component = st.sampled_from(["..", ".", "a", "b", "self", "abs", "up", "top", "slash", "", "file"])


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(parts=st.lists(component, min_size=1, max_size=8))
def test_never_above_the_root(root: Path, parts: list[str]) -> None:
    with Rooted(str(root)) as rooted:
        try:
            with rooted.find("/".join(parts) or "/") as spot:
                if spot.stat is None:
                    return
                here = os.open(spot.name, os.O_PATH | os.O_NOFOLLOW, dir_fd=spot.directory)
        except OSError as error:
            assert error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
            return
        try:
            led_to = os.readlink(f"/proc/self/fd/{here}")
        finally:
            os.close(here)
        assert led_to == str(root) or led_to.startswith(f"{root}/")
