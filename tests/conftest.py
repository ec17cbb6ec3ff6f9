"""Options and fixtures shared by all tests; what they hand out is in the modules beside this one."""

import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from apt_guest import make_apt_tree
from chaos_points import Chaos
from conformance import CONFORMANCE, Conformance
from fuzz import Fuzz
from guest_image import make_guest_image
from leaks import Machine
from packer_run import Packer
from sudo_user import SudoUser, made_sudo_user
from transfer_place import HOSTS, Place, made_place

from packer_plugin_osc_chroot.host.mountinfo import mounts_below
from packer_plugin_osc_chroot.host.transfer import RootFs, open_rootfs
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud

ROOT = Path(__file__).resolve().parent.parent
SOURCE_OMI = "ami-00000001"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a skipped test is a failed one")
    parser.addoption(
        "--plugin",
        type=Path,
        default=ROOT / "dist" / "packer-plugin-osc-chroot",
        help="the plugin that end-to-end tests run (default: what `make build` left)",
    )
    parser.addoption(
        "--packer", default=None, help="the packer that they run (default: as `make packer`)"
    )

    parser.addoption(
        "--chaos",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="the share of the chaos suite that is run (1: all of it; default: a sample)",
    )
    parser.addoption(
        "--builds",
        type=int,
        default=4,
        metavar="N",
        help="how many builds a Region on a bad day has to stand (default: %(default)s)",
    )
    parser.addoption(
        "--fuzz",
        type=float,
        default=1.0,
        metavar="TIMES",
        help="how many times the usual number of cases fuzzing tests run (default: %(default)g)",
    )
    parser.addoption(
        "--slice",
        default="1/1",
        metavar="I/N",
        help="of the chaos suite, every Nth injection only, from the Ith on (default: %(default)s)",
    )
    parser.addoption(
        "--seed", default=None, help="of what the chaos suite draws (default: a new one)"
    )


@pytest.fixture
def chaos(request: pytest.FixtureRequest) -> Iterator[Chaos]:
    """Draws what happens to builds, and prints what came of it, passed or not."""
    seed = request.config.getoption("--seed") or secrets.token_hex(4)
    first, of = map(int, request.config.getoption("--slice").split("/"))
    chaos = Chaos(
        seed=f"{seed} {request.node.name}",
        share=request.config.getoption("--chaos"),
        first=first,
        of=of,
    )
    yield chaos
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{request.node.name}: --seed={seed}: {chaos.summary()}")


@pytest.fixture
def fuzz(request: pytest.FixtureRequest) -> Iterator[Fuzz]:
    """Makes bad input from a seed that is the same each time, and prints how much of it there was."""
    seed = request.config.getoption("--seed") or "7"
    fuzz = Fuzz(seed=seed, factor=request.config.getoption("--fuzz"))
    yield fuzz
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{request.node.name}: {fuzz.summary()}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.config.getoption("--no-skips") and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which --no-skips forbids: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if report.skipped and collector.config.getoption("--no-skips"):
        report.outcome = "failed"
        report.longrepr = f"skipped, which --no-skips forbids: {report.longrepr}"
    return report


def pytest_configure(config: pytest.Config) -> None:
    config.stash[CONFORMANCE] = Conformance()


@pytest.fixture(scope="session", autouse=True)
def nothing_stays_mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a failed test left mounted: a later session removes its folders, through mounts too."""
    yield
    for mount in reversed(mounts_below(str(tmp_path_factory.getbasetemp()))):
        subprocess.run(["umount", "--lazy", mount.mount_point], check=False)


@pytest.fixture(autouse=True)
def conformance(request: pytest.FixtureRequest) -> Iterator[None]:
    """No call, and no answer to one, may differ from the official document of the API."""
    seen = request.config.stash[CONFORMANCE]
    seen.problems.clear()
    node: pytest.Item = request.node
    expected = node.get_closest_marker("wrong_requests") is not None
    with pytest.MonkeyPatch.context() as patch:
        seen.watch(patch, requests=not expected)
        yield
    assert seen.problems == []


def pytest_sessionfinish(session: pytest.Session) -> None:
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["conformance"] = session.config.stash[CONFORMANCE].summary()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    if summary := getattr(node, "workeroutput", {}).get("conformance"):
        node.config.stash[CONFORMANCE].add(summary)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    seen = config.stash[CONFORMANCE]
    if seen.calls:
        terminalreporter.write_line(str(seen))


@pytest.fixture(autouse=True)
def leak_check(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Machine | None]:
    """Root and end-to-end tests leave the machine as it was, and get a TMPDIR to tell by."""
    node: pytest.Item = request.node
    if not any(node.get_closest_marker(name) for name in ("root", "e2e")):
        yield None
        return
    # Here, else pytest makes it in the TMPDIR of the test that comes first.
    files = tmp_path_factory.getbasetemp()
    # Not below tmp_path: the path of a Unix socket has 107 bytes at most.
    temporary = Path(tempfile.mkdtemp(prefix="osc-"))
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    machine = Machine(temporary, files)
    try:
        yield machine
        machine.check()
    finally:
        # What is mounted in there may be the machine's own.
        if not mounts_below(str(temporary)):
            shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture(scope="session")
def guest_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small source image that a shell runs in."""
    return make_guest_image(tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="session")
def apt_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small root filesystem whose apt-get only notes what it is to install."""
    tree = tmp_path_factory.mktemp("apt") / "root"
    make_apt_tree(tree)
    return tree


@pytest.fixture
def cloud(guest_image: Path, leak_check: Machine) -> Iterator[LocalCloud]:
    """A Region with one OMI, SOURCE_OMI. A test that leaves something in it, or harms it, fails."""
    with LocalCloud(source_omis={SOURCE_OMI: guest_image}) as cloud:
        yield cloud
    assert cloud.leftovers() == []
    assert cloud.defects == []


@pytest.fixture
def sudo_user() -> Iterator[SudoUser]:
    """A normal user whose one privilege is sudo."""
    with made_sudo_user() as user:
        yield user


@pytest.fixture(params=list(HOSTS))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """What files are transferred to and from, directly and through the agent."""
    with made_place(HOSTS[request.param], tmp_path) as place:
        yield place


@pytest.fixture(params=list(HOSTS))
def rootfs(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RootFs]:
    """A folder `root` as the files of a mounted root, directly and through the agent."""
    (tmp_path / "root").mkdir()
    with open_rootfs(HOSTS[request.param], tmp_path / "root") as files:
        yield files


@pytest.fixture(scope="session")
def packer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Packer]:
    """Packer, with the plugin installed and a configuration of its own."""
    plugin: Path = request.config.getoption("--plugin").resolve()
    assert plugin.is_file(), f"{plugin} is missing: run `make build` first"
    found = request.config.getoption("--packer") or shutil.which("packer")
    binary = Path(found or ROOT / "build" / "tools" / "packer").resolve()
    assert binary.is_file(), f"{binary} is missing: run `make packer` first"
    home = tmp_path_factory.mktemp("packer")
    base = {
        **os.environ,
        "CHECKPOINT_DISABLE": "1",
        "OSC_CHROOT_PYTHON": sys.executable,
        "PACKER_CONFIG_DIR": str(home),
        "PACKER_PLUGIN_PATH": str(home / "plugins"),
        "XDG_CACHE_HOME": str(home / "cache"),
    }
    for name in ("PACKER_LOG", "PACKER_LOG_PATH", "PACKER_FORCE_GOB"):
        base.pop(name, None)
    packer = Packer(binary=binary, plugin=plugin, base=base)
    outcome = packer.run(
        "plugins", "install", "--path", str(plugin), "github.com/outscale/osc-chroot", cwd=home
    )
    assert outcome.status == 0, outcome.output
    yield packer
