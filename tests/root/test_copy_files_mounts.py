"""copy_files where a provisioner mounted something at, above or below a copy."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
from copied_tree import copied, inside, made_source
from guest_tree import no_mount_left, run
from transfer_place import HOSTS

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import UndoError
from packer_plugin_osc_chroot.host.copy_files import copied_files
from packer_plugin_osc_chroot.host.mountinfo import mounts_below
from packer_plugin_osc_chroot.host.transfer import RootFs, open_rootfs
from packer_plugin_osc_chroot.ui import RecordingUi

pytestmark = pytest.mark.root

Placing = Callable[[Path], AbstractContextManager[None]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return made_source(tmp_path)


@pytest.fixture(params=list(HOSTS))
def placing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Placing]:
    """copied_files as a build calls it: with the host and the root."""
    root = tmp_path / "root"
    root.mkdir()
    host = HOSTS[request.param]
    with no_mount_left(tmp_path), open_rootfs(host, root) as files:
        run("mount", "-t", "tmpfs", "tmpfs", str(root))
        try:

            def place(source: Path) -> AbstractContextManager[None]:
                return copied_files(
                    files,
                    [str(source)],
                    ui=RecordingUi(),
                    token=CancelToken(),
                    host=host,
                    root=root,
                )

            yield place
        finally:
            files.files.close()
            run("umount", str(root))


@pytest.mark.parametrize("where", ["on it", "below it", "above it", "above it, with one below"])
def test_mount_of_a_provisioner_is_unmounted_first(
    placing: Placing, tmp_path: Path, source: Path, where: str
) -> None:
    target = inside(tmp_path, source)
    target.parent.mkdir(parents=True)
    target.write_text("the image's own")
    bound = tmp_path / "bound"
    (bound / "folder").mkdir(parents=True)
    (bound / "file").write_text("of the host")
    with placing(source):
        if where == "on it":
            run("mount", "--bind", str(bound / "file"), str(target))
        elif where == "above it":
            run("mount", "--bind", str(bound), str(target.parent.parent))
        elif where == "below it":
            target.unlink()
            (target / "below").mkdir(parents=True)
            run("mount", "--bind", str(bound), str(target / "below"))
        if where == "above it, with one below":
            above = target.parent.parent
            run("mount", "--bind", str(bound), str(above))
            run("mount", "-t", "tmpfs", "tmpfs", str(above / "folder"))
    assert target.read_text() == "the image's own"
    assert len(mounts_below(str(tmp_path / "root"))) == 1
    assert sorted(each.name for each in bound.iterdir()) == ["file", "folder"]
    assert (bound / "file").read_text() == "of the host"


def test_mount_that_was_there_before_stays(placing: Placing, tmp_path: Path, source: Path) -> None:
    above = inside(tmp_path, source).parent
    above.mkdir(parents=True)
    run("mount", "-t", "tmpfs", "tmpfs", str(above))
    with placing(source):
        pass
    assert len(mounts_below(str(tmp_path / "root"))) == 2
    run("umount", str(above))


@pytest.mark.parametrize("at", ["", "below/deep"])
def test_nothing_is_removed_across_a_mount(
    rootfs: RootFs, tmp_path: Path, source: Path, at: str
) -> None:
    """Where it cannot be unmounted; a bind mount here has the device of what it is in."""
    target = inside(tmp_path, source)
    bound = tmp_path / "bound"
    bound.mkdir()
    (bound / "file").write_text("of the host")
    with ExitStack() as stack:
        with pytest.raises(UndoError, match="could not put back") as caught:
            with copied(rootfs, source):
                target.unlink()
                (target / at).mkdir(parents=True)
                run("mount", "--bind", str(bound), str(target / at))
                stack.callback(run, "umount", str(target / at))
        assert "something is mounted on it" in caught.value.left[0]
        assert (bound / "file").read_text() == "of the host"


@pytest.mark.parametrize("had", ["own", "nothing"])
def test_nothing_is_put_back_under_a_mount(
    rootfs: RootFs, tmp_path: Path, source: Path, had: str
) -> None:
    """Where it cannot be unmounted. It has a file of the same name, which is none of ours."""
    target = inside(tmp_path, source)
    target.parent.mkdir(parents=True)
    if had == "own":
        target.write_text("the image's own")
    bound = tmp_path / "bound"
    (bound / "made").mkdir(parents=True)
    foreign = bound / target.name
    foreign.write_text("of the host")
    with ExitStack() as stack:
        with pytest.raises(UndoError, match="could not put back") as caught:
            with copied(rootfs, source):
                run("mount", "--bind", str(bound), str(target.parent))
                stack.callback(run, "umount", str(target.parent))
        assert "in another mount than before" in caught.value.left[0]
        assert foreign.read_text() == "of the host"
        assert (bound / "made").is_dir()
