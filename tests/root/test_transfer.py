"""Uploads and downloads: what arrives, where it may not lead, and what is said when it fails."""

import gc
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest
from guest_tree import loop_device, no_mount_left, run

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, Cancelled
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.copy_files import copied_files
from packer_plugin_osc_chroot.host.rooted import Rooted
from packer_plugin_osc_chroot.host.transfer import RootFs, open_rootfs
from packer_plugin_osc_chroot.ui import RecordingUi

pytestmark = pytest.mark.root

# Directly, and through the agent with the environment that sudo leaves.
HOSTS = {
    "direct": Host(),
    "agent": Host(wrap=lambda command: f"cd / && env -i PATH=$PATH {command}"),
}


class Place:
    def __init__(self, top: Path, files: RootFs, warnings: list[str]) -> None:
        self.top = top
        self.root = top / "root"
        self.outside = top / "outside"
        self.files = files
        self.warnings = warnings

    def upload(self, remote: str, data: bytes, *, mode: int = 0) -> None:
        chunks = (data[start : start + 100_000] for start in range(0, len(data), 100_000))
        self.files.upload(remote, chunks, mode=mode, token=CancelToken())

    def download(self, remote: str) -> bytes:
        return b"".join(self.files.download(remote, token=CancelToken()))

    def upload_dir(
        self, remote: str, *, contents_only: bool, exclude: list[str] | None = None
    ) -> None:
        self.files.upload_dir(
            str(self.top / "local"),
            remote,
            contents_only=contents_only,
            exclude=exclude or [],
            token=CancelToken(),
        )

    def download_dir(self, remote: str, name: str, *, contents_only: bool = True) -> Path:
        local = self.top / name
        self.files.download_dir(
            remote, str(local), contents_only=contents_only, token=CancelToken()
        )
        return local


@pytest.fixture(params=list(HOSTS))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    for name in ("root/etc", "root/tmp", "root/proc", "outside"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "outside/secret").write_text("secret")
    warnings: list[str] = []
    root = tmp_path / "root"
    with open_rootfs(HOSTS[request.param], root, on_warning=warnings.append) as files:
        yield Place(tmp_path, files, warnings)


def make_local(top: Path) -> Path:
    local = top / "local"
    (local / "sub/deep").mkdir(parents=True)
    (local / "empty").mkdir()
    (local / "sub/file").write_text("one")
    (local / "sub/deep/script").write_text("#!/bin/sh")
    (local / "sub/deep/script").chmod(0o755)
    (local / "empty").chmod(0o750)
    (local / "link").symlink_to("sub/file")
    (local / "far").symlink_to("/etc/passwd")
    (local / "zero").touch()
    os.mkfifo(local / "fifo")
    (local / os.fsdecode(b"n\xffme \xc3\xa9")).write_text("odd")
    (local / "sub/deep").chmod(0o555)
    return local


def test_file_up_and_down(place: Place) -> None:
    data = random.Random(1).randbytes(3_000_000)
    place.upload("/tmp/new", data)
    place.upload("/tmp/run", b"", mode=0o100755)
    assert (place.root / "tmp/new").read_bytes() == data
    assert stat.S_IMODE((place.root / "tmp/new").stat().st_mode) == 0o644
    assert stat.S_IMODE((place.root / "tmp/run").stat().st_mode) == 0o755
    assert place.download("/tmp/new") == data
    assert place.download("tmp/run") == b""


@pytest.mark.parametrize("name", ["é" * 127, "n" * 255, os.fsdecode(b"\xff" * 254)])
def test_existing_file_of_the_longest_name(place: Place, name: str) -> None:
    """255 bytes, whatever characters they make."""
    for data in (b"old", b"new"):
        place.upload(f"/tmp/{name}", data)
    assert place.download(f"/tmp/{name}") == b"new"
    assert os.listdir(place.root / "tmp") == [name]
    source = place.top / name
    source.write_text("host")
    own = place.root / str(source).lstrip("/")
    own.parent.mkdir(parents=True)
    own.write_text("own")
    with copied_files(
        place.files,
        [str(source)],
        host=Host(),
        root=Path("/no/such/root"),
        ui=RecordingUi(),
        token=CancelToken(),
    ):
        assert own.read_text() == "host"
    assert own.read_text() == "own"


def test_existing_file_keeps_its_mode_and_owner(place: Place) -> None:
    target = place.root / "etc/config"
    target.write_text("something longer than what comes")
    target.chmod(0o600)
    os.chown(target, 12, 34)
    place.upload("/etc/config", b"new", mode=0o644)
    found = target.stat()
    assert target.read_bytes() == b"new"
    assert (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid) == (0o600, 12, 34)


@pytest.mark.parametrize("kind", ["plain", "hard link", "mounted over"])
def test_existing_file_is_replaced_whole_or_not_at_all(place: Place, kind: str) -> None:
    target = place.root / "etc/old"
    target.write_text("as it was")
    os.setxattr(target, "user.label", b"kept")
    if kind == "hard link":
        os.link(target, place.root / "etc/other")
    elif kind == "mounted over":
        (place.top / "bound").write_text("as it was")
        run("mount", "--bind", str(place.top / "bound"), str(target))

    def breaks() -> Iterator[bytes]:
        yield b"half"
        raise BuildError("the source is gone")

    try:
        before = sorted(os.listdir(place.root / "etc"))
        with pytest.raises(BuildError, match="the source is gone"):
            place.files.upload("/etc/old", breaks(), mode=0, token=CancelToken())
        assert target.read_text() == "as it was"
        place.upload("/etc/old", b"new" * 100_000)
        assert target.read_bytes() == b"new" * 100_000
        assert sorted(os.listdir(place.root / "etc")) == before
        if kind == "plain":
            assert os.getxattr(target, "user.label") == b"kept"
        elif kind == "hard link":
            assert (place.root / "etc/other").read_bytes() == b"new" * 100_000
        else:
            assert (place.top / "bound").read_bytes() == b"new" * 100_000
    finally:
        if kind == "mounted over":
            run("umount", str(target))


def test_folder_that_breaks_off_leaves_the_hosts_file_as_it_was(place: Place) -> None:
    (place.root / "tmp/t").mkdir()
    with open(place.root / "tmp/t/big", "wb") as file:
        file.truncate(400 << 20)
    back = place.top / "back"
    back.mkdir()
    (back / "big").write_text("as it was")
    token = CancelToken()
    threading.Timer(0.05, token.cancel).start()
    with pytest.raises(Cancelled):
        place.files.download_dir("/tmp/t", str(back), contents_only=True, token=token)
    assert os.listdir(back) == ["big"]
    assert (back / "big").read_text() == "as it was"


def test_symlinks_are_followed_inside_the_root(place: Place) -> None:
    (place.root / "var").symlink_to("/etc")
    (place.root / "etc/resolv.conf").symlink_to("../tmp/stub")
    (place.root / "etc/out").symlink_to(place.outside / "secret")
    (place.root / "etc/up").symlink_to("../../../../../.." + str(place.outside / "secret"))
    place.upload("/var/resolv.conf", b"inside")
    assert (place.root / "tmp/stub").read_bytes() == b"inside"
    assert (place.root / "etc/resolv.conf").is_symlink()
    for name in ("/etc/out", "/etc/up", f"/etc/../../../..{place.outside}/secret"):
        with pytest.raises(BuildError, match="does not exist"):
            place.upload(name, b"bad")
        with pytest.raises(BuildError, match="does not exist"):
            place.download(name)
    assert (place.outside / "secret").read_text() == "secret"


@pytest.mark.parametrize(
    ("remote", "words"),
    [
        ("/etc", "'/etc': that is a folder"),
        ("/etc/", "'/etc/': that is a folder"),
        ("/new/", "'/new/': that is a folder"),
        ("/missing/a/b", "/missing does not exist"),
        ("/etc/file/x", "/etc/file is not a folder"),
        ("/etc/fifo", "/etc/fifo: is no regular file"),
        ("/etc/loop", "too many symlinks"),
        ("/etc/null", "no regular file"),
        ("a\0b", "Invalid"),
    ],
)
def test_upload_that_cannot_be(place: Place, remote: str, words: str) -> None:
    (place.root / "etc/file").touch()
    (place.root / "etc/loop").symlink_to("loop")
    os.mkfifo(place.root / "etc/fifo")
    os.mknod(place.root / "etc/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    with pytest.raises(BuildError, match=words):
        place.upload(remote, b"x" * 2_000_000)
    place.upload("/etc/next", b"still works")
    assert (place.root / "etc/next").read_bytes() == b"still works"


@pytest.mark.parametrize(
    ("remote", "words"),
    [("/etc", "is a folder"), ("/missing", "does not exist"), ("/etc/fifo", "no regular file")],
)
def test_download_that_cannot_be(place: Place, remote: str, words: str) -> None:
    os.mkfifo(place.root / "etc/fifo")
    with pytest.raises(BuildError, match=words):
        place.download(remote)


def test_folder_up_and_down(place: Place) -> None:
    local = make_local(place.top)
    place.upload_dir("/tmp/target", contents_only=True)
    place.upload_dir("/tmp", contents_only=False)
    back = place.download_dir("/tmp/target/", "back")
    named = place.download_dir("/tmp/target", "named", contents_only=False) / "target"
    listing = ["find", ".", "!", "-name", "fifo", "-printf", "%P %y %m %l\n"]

    def listed(path: Path) -> list[str]:
        text = subprocess.run(listing, cwd=path, capture_output=True, check=True).stdout
        return sorted(line for line in os.fsdecode(text).splitlines() if not line.startswith(" d"))

    expected = listed(local)
    assert len(expected) == 9
    for copy in (place.root / "tmp/target", place.root / "tmp/local", back, named):
        assert listed(copy) == expected
        assert (copy / "sub/deep/script").read_text() == "#!/bin/sh"
    assert any("fifo was not copied" in warning for warning in place.warnings)


def test_exclude(place: Place) -> None:
    make_local(place.top)
    place.upload_dir("/tmp/t", contents_only=True, exclude=["sub/deep/", "./zero", "link"])
    left = {path.name for path in (place.root / "tmp/t").rglob("*")}
    assert left == {"sub", "file", "empty", "far", os.fsdecode(b"n\xffme \xc3\xa9")}


def test_folder_onto_what_is_there(place: Place) -> None:
    """A symlinked folder of the image (as /lib is on merged systems) is not replaced."""
    make_local(place.top)
    (place.root / "tmp/t/real").mkdir(parents=True)
    (place.root / "tmp/t/sub").symlink_to("/tmp/t/real")
    (place.root / "tmp/t/zero").symlink_to("/etc/zero")
    (place.root / "tmp/t/link").write_text("a file")
    place.upload_dir("/tmp/t", contents_only=True)
    assert (place.root / "tmp/t/sub").is_symlink()
    assert (place.root / "tmp/t/real/file").read_text() == "one"
    assert (place.root / "etc/zero").exists()
    assert os.readlink(place.root / "tmp/t/link") == "sub/file"


def test_folder_that_cannot_be_copied(place: Place) -> None:
    local = make_local(place.top)
    (place.root / "tmp/t").mkdir()
    (place.root / "tmp/t/sub").write_text("a file in the way")
    with pytest.raises(BuildError, match="/tmp/t/sub is not a folder"):
        place.upload_dir("/tmp/t", contents_only=True)
    with pytest.raises(BuildError, match="/nowhere does not exist"):
        place.upload_dir("/nowhere/x", contents_only=True)
    with pytest.raises(BuildError, match="/nowhere does not exist"):
        place.download_dir("/nowhere", "back")
    assert not (place.top / "back").exists()
    shutil.rmtree(local)
    with pytest.raises(BuildError, match="local does not exist"):
        place.upload_dir("/tmp/u", contents_only=True)


def test_folder_from_the_image_leads_nowhere_on_the_host(place: Place) -> None:
    """A link on the host where the image has a folder or file is an error, not a way out."""
    (place.root / "tmp/t/x").mkdir(parents=True)
    (place.root / "tmp/t/x/secret").write_text("overwritten")
    (place.top / "back").mkdir()
    (place.top / "back/x").symlink_to(place.outside)
    with pytest.raises(BuildError):
        place.download_dir("/tmp/t", "back")
    (place.top / "back/x").unlink()
    (place.top / "back/x").mkdir()
    (place.top / "back/x/secret").symlink_to(place.outside / "secret")
    with pytest.raises(BuildError, match="symlink"):
        place.download_dir("/tmp/t", "back")
    assert (place.outside / "secret").read_text() == "secret"


def test_two_hundred_ways_out(place: Place) -> None:
    secret = place.outside / "secret"
    run("mount", "-t", "proc", "proc", str(place.root / "proc"))
    try:
        ways = ["/proc/1/root", "/proc/self/root", "/proc/1/cwd/../../../..", "/proc/self/cwd"]
        ways += [f"/proc/{os.getpid()}/root", "/proc/self/fd", "/proc/1/task/1/root"]
        for number, target in enumerate(["/", "..", "../" * 30, *ways, str(place.outside)]):
            (place.root / f"tmp/way{number}").symlink_to(target)
            ways.append(f"/tmp/way{number}")
            ways.append(f"/tmp/../tmp/way{number}/./")
        ways += ["/..", "../../../../../../..", "/./../", "//..//..", "/tmp/../../../.."]
        with open(secret) as held:
            ways.append(f"/proc/self/fd/{held.fileno()}")
            attempts = 0
            for way in ways:
                for rest in ("", str(secret), f"/..{secret}", "/secret", f"/proc/1/root{secret}"):
                    attempts += 1
                    path = way + rest
                    try:
                        assert b"secret" not in place.download(path)
                    except BuildError:
                        pass
                    if not rest:
                        continue
                    try:
                        place.upload(path, b"written")
                    except BuildError:
                        pass
        for number, way in enumerate(ways):
            for rest in (str(place.outside), f"/..{place.outside}"):
                attempts += 1
                with suppress(BuildError):
                    place.upload_dir(way + rest, contents_only=True)
                with suppress(BuildError):
                    got = place.download_dir(way + rest, f"got{number}")
                    assert not (got / "secret").exists()
            # copy_files has the host's own paths; the image leads them elsewhere.
            attempts += 1
            with suppress(BuildError):
                with copied_to(place, way):
                    pass
        assert attempts >= 200
    finally:
        run("umount", str(place.root / "proc"))
    assert secret.read_text() == "secret"
    assert [path.name for path in place.outside.iterdir()] == ["secret"]


@contextmanager
def copied_to(place: Place, target: str) -> Iterator[None]:
    """copy_files of a file below a folder that is a link to `target` in the image."""
    source = place.top / "host/secret"
    source.parent.mkdir(exist_ok=True)
    source.write_text("copied")
    inside = place.root / str(source.parent).lstrip("/")
    inside.parent.mkdir(parents=True, exist_ok=True)
    inside.symlink_to(target)
    try:
        with copy_files(place, source):
            yield
    finally:
        inside.unlink()


def copy_files(place: Place, *sources: Path) -> AbstractContextManager[None]:
    return copied_files(
        place.files,
        [str(source) for source in sources],
        host=Host(),
        root=Path("/no/such/root"),
        ui=RecordingUi(),
        token=CancelToken(),
    )


def test_links_swapped_during_the_transfer(place: Place) -> None:
    """Something in the image keeps exchanging a folder and a link that leads outside."""
    make_local(place.top)
    source = place.top / "host/folder/secret"
    source.parent.mkdir(parents=True)
    source.write_text("copied")
    top = place.root / str(place.top / "host").lstrip("/")
    top.mkdir(parents=True)
    folder, link = top / "folder", top / "link"
    folder.mkdir()
    (folder / "secret").write_text("inside")
    inside = "/" + str(top.relative_to(place.root))
    script = (
        "import os, sys, ctypes\n"
        "libc = ctypes.CDLL(None)\n"
        "a, b = (os.fsencode(each) for each in sys.argv[1:])\n"
        "while True: libc.renameat2(-100, a, -100, b, 2)\n"
    )
    link.symlink_to(place.outside)
    swapper = subprocess.Popen([sys.executable, "-c", script, str(folder), str(link)])
    try:
        end = time.monotonic() + 2
        attempts = 0
        while time.monotonic() < end:
            for name in ("folder", "link"):
                attempts += 5
                with suppress(BuildError):
                    assert place.download(f"{inside}/{name}/secret") != b"secret"
                with suppress(BuildError):
                    place.upload(f"{inside}/{name}/secret", b"inside")
                with suppress(BuildError):
                    place.upload_dir(f"{inside}/{name}", contents_only=True)
                with suppress(BuildError):
                    got = place.download_dir(f"{inside}/{name}", f"got{attempts}")
                    assert not (got / "secret").exists() or (got / "secret").read_text() != "secret"
            # An original that is out of reach at that moment cannot be put back, which is said.
            with suppress(BuildError):
                with copy_files(place, source):
                    pass
        assert attempts >= 200
    finally:
        swapper.kill()
        swapper.wait()
    assert (place.outside / "secret").read_text() == "secret"
    assert [path.name for path in place.outside.iterdir()] == ["secret"]


CHROOTED = """
import json, os, sys
os.chroot(sys.argv[1]); os.chdir("/")
answers = []
for path in json.load(sys.stdin):
    try:
        fd = os.open(path, os.O_PATH)
        found = os.fstat(fd)
        answers.append([found.st_dev, found.st_ino])
        os.close(fd)
    except OSError as error:
        answers.append(error.errno)
print(json.dumps(answers))
"""


def test_resolution_is_the_kernels(tmp_path: Path) -> None:
    """Two thousand random paths through random links, against a process chrooted there."""
    chance = random.Random(20)
    names = [f"n{number}" for number in range(6)]
    for name in names[:3]:
        (tmp_path / name / name).mkdir(parents=True)
        (tmp_path / name / "file").touch()

    def some_path() -> str:
        parts = chance.choices([*names, "..", ".", "file", "", "s0", "s1", "s2", "s3", "s4"], k=4)
        return chance.choice(["/", "", "/"]) + "/".join(parts[: chance.randint(1, 4)]) or "/"

    for number in range(5):
        for directory in (tmp_path, *(tmp_path / name for name in names[:3])):
            (directory / f"s{number}").symlink_to(some_path())
    paths = [some_path() for _ in range(2000)]
    done = subprocess.run(
        [sys.executable, "-c", CHROOTED, str(tmp_path)],
        input=json.dumps(paths),
        capture_output=True,
        text=True,
        check=True,
    )
    ours: list[object] = []
    with Rooted(str(tmp_path)) as rooted:
        for path in paths:
            try:
                with rooted.find(path) as spot:
                    if spot.stat is None:
                        ours.append(2)
                    else:
                        ours.append([spot.stat.st_dev, spot.stat.st_ino])
            except OSError as error:
                ours.append(error.errno)
    kernel = json.loads(done.stdout)
    assert sum(isinstance(answer, list) for answer in kernel) > 300
    assert [each for each in zip(paths, ours, kernel, strict=True) if each[1] != each[2]] == []


@pytest.mark.parametrize("name", list(HOSTS))
def test_disk_full_and_read_only(name: str, tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    with no_mount_left(tmp_path), loop_device(tmp_path, size_mib=8, guest=False) as device:
        root = tmp_path / "root"
        run("mount", device, str(root))
        try:
            with open_rootfs(HOSTS[name], root) as files:
                chunks = (b"x" * 1_000_000 for _ in range(200))
                with pytest.raises(BuildError, match="no space left for /big") as caught:
                    files.upload("/big", chunks, mode=0, token=CancelToken())
                assert "root_volume_size" in caught.value.hint
                assert not (root / "big").exists()
                tree = tmp_path / "tree"
                tree.mkdir()
                (tree / "a").write_bytes(b"x" * 12_000_000)
                with pytest.raises(BuildError, match="no space left for /t/a"):
                    files.upload_dir(str(tree), "/t", contents_only=True, token=CancelToken())
                assert not (root / "t/a").exists()
                (root / "old").write_text("as it was")
                chunks = (b"x" * 1_000_000 for _ in range(200))
                with pytest.raises(BuildError, match="no space left for /old"):
                    files.upload("/old", chunks, mode=0, token=CancelToken())
                assert sorted(os.listdir(root)) == ["lost+found", "old", "t"]
                assert (root / "old").read_text() == "as it was"
                # Of a file with another name the content is written over: that takes room twice.
                os.link(root / "old", root / "linked")
                free = os.statvfs(root).f_bavail * os.statvfs(root).f_frsize
                chunks = (b"x" * (free * 2 // 30) for _ in range(10))
                with pytest.raises(BuildError, match="no space left for /old"):
                    files.upload("/old", chunks, mode=0, token=CancelToken())
                assert sorted(os.listdir(root)) == ["linked", "lost+found", "old", "t"]
                assert (root / "linked").read_text() == "as it was"
                files.upload("/old", [b"new"], mode=0, token=CancelToken())
                assert (root / "linked").read_text() == "new"
                run("mount", "-o", "remount,ro", str(root))
                with pytest.raises(BuildError, match="read-only"):
                    files.upload("/x", [b"x"], mode=0, token=CancelToken())
        finally:
            run("umount", str(root))


def test_cancel_ends_transfers(place: Place) -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 1000
            time.sleep(0.001)

    token = CancelToken()
    threading.Timer(0.4, token.cancel).start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        place.files.upload("/tmp/endless", endless(), mode=0, token=token)
    assert time.monotonic() - start < 1.3
    time.sleep(0.2)
    assert not (place.root / "tmp/endless").exists()
    (place.root / "tmp/sparse").touch()
    os.truncate(place.root / "tmp/sparse", 1 << 40)
    token = CancelToken()
    threading.Timer(0.4, token.cancel).start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        for _ in place.files.download("/tmp/sparse", token=token):
            pass
    assert time.monotonic() - start < 1.3


def test_folder_that_fails_frees_the_root_though_its_error_is_kept(place: Place) -> None:
    """As an error is until it has been shown: its traceback holds all that the transfer had."""
    make_local(place.root / "tmp")
    (place.root / "tmp/back").mkdir()
    local = place.top / "back"
    (local / "sub/file").mkdir(parents=True)
    place.upload("/tmp/a", b"x")
    gc.collect()
    before = open_below(place.root)
    with pytest.raises(BuildError, match="is a folder") as caught:
        place.files.download_dir("/tmp/local", str(local), contents_only=True, token=CancelToken())
    with pytest.raises(BuildError, match="secret/x is not a folder"):
        place.files.download_dir(
            "/tmp/local", f"{place.outside}/secret/x", contents_only=True, token=CancelToken()
        )
    assert caught.value.__traceback__ is not None
    # The agent that was at it has ended.
    assert getattr(place.files.files, "_agent", None) is None
    assert open_below(place.root) == before


def open_below(root: Path) -> list[str]:
    links = [f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd")]
    targets = [os.readlink(link) for link in links if os.path.islink(link)]
    return [target for target in targets if target.startswith(str(root))]


@pytest.mark.parametrize("path", ["/no\0where", "nul\0"])
def test_nul_byte_in_a_path_of_the_host(place: Place, path: str) -> None:
    shown = path.replace("\0", r"\\0")
    with pytest.raises(BuildError, match=f"{shown}: no path holds a NUL byte"):
        place.files.upload_dir(path, "/tmp", contents_only=True, token=CancelToken())
    with pytest.raises(BuildError, match=f"{shown}: no path holds a NUL byte"):
        place.files.download_dir("/tmp", path, contents_only=True, token=CancelToken())


def test_stopping_a_download_frees_the_root(place: Place) -> None:
    (place.root / "tmp/big").write_bytes(b"x" * 5_000_000)
    stream = place.files.download("/tmp/big", token=CancelToken())
    assert isinstance(stream, Iterator)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    place.upload("/tmp/after", b"x")
    assert (place.root / "tmp/after").exists()


def test_nothing_stays_open(place: Place) -> None:
    make_local(place.top)
    place.upload("/tmp/a", b"x")
    # What earlier tests dropped must not be collected while we count.
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    place.upload("/tmp/a", b"x")
    place.download("/tmp/a")
    place.upload_dir("/tmp/t", contents_only=True)
    place.download_dir("/tmp/t", "back")
    assert len(os.listdir("/proc/self/fd")) == before


def test_five_thousand_small_files(place: Place) -> None:
    local = place.top / "local"
    for number in range(50):
        (local / str(number)).mkdir(parents=True)
        for name in range(100):
            (local / str(number) / f"{name}.conf").write_text("x" * 100)
    # Our own CPU time: neither the disk nor other load is what is tested.
    start = os.times().user
    place.upload_dir("/tmp/many", contents_only=True)
    took = os.times().user - start
    assert sum(1 for _ in (place.root / "tmp/many").rglob("*.conf")) == 5000
    assert took < 0.8


def test_wrapper_that_does_not_work(tmp_path: Path) -> None:
    host = Host(wrap=lambda command: "echo 'sudo: a password is required' >&2; exit 1")
    with open_rootfs(host, tmp_path) as files:
        with pytest.raises(BuildError, match="a password is required"):
            files.upload("/x", [b"x"], mode=0, token=CancelToken())


def test_hanging_wrapper_is_cancelled(tmp_path: Path) -> None:
    token = CancelToken()
    threading.Timer(0.3, token.cancel).start()
    start = time.monotonic()
    with open_rootfs(Host(wrap=lambda command: "sleep 91; :"), tmp_path) as files:
        with pytest.raises(Cancelled):
            files.upload("/x", [b"x"], mode=0, token=token)
    assert time.monotonic() - start < 1.5
