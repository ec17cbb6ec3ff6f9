"""Where a path in the image may not lead: the host. What resolves it is compared with the kernel."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest
from guest_tree import run
from transfer_place import Place, make_local

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.copy_files import copied_files
from packer_plugin_osc_chroot.host.rooted import Rooted
from packer_plugin_osc_chroot.ui import RecordingUi

pytestmark = pytest.mark.root


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
