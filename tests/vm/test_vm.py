"""Builds in a real VM, whose kernel names disks and whose udev settles, and their OMIs, booted.

The VM is itself the OMI that examples/from-scratch.pkr.hcl makes, and so is the source OMI.
"""

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from machine import Accelerator, Machine, find_accelerator
from region_vm import RegionVm, make_tools_disk, running_vm

pytestmark = [pytest.mark.vm, pytest.mark.timeout(900)]

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent.parent / "build"
MIB = 1024**2

Say = Callable[[str], None]


def made(name: str) -> Path:
    path = BUILD / "images" / name
    assert path.is_file(), f"{path} is missing: run `make test-vm`"
    return path


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Say:
    """Shows what was seen at once: whoever waits for these tests has time to read."""
    capture = request.config.pluginmanager.getplugin("capturemanager")
    started = time.monotonic()

    def show(text: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n{time.monotonic() - started:5.0f} s  {text}", end="", flush=True)

    return show


@pytest.fixture(scope="session")
def accelerator(tmp_path_factory: pytest.TempPathFactory, say: Say) -> Accelerator:
    found = find_accelerator(made("bootable.raw"), tmp_path_factory.mktemp("probe"))
    say(f"acceleration: {found}")
    return found


@pytest.fixture(scope="session")
def vm(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    accelerator: Accelerator,
    say: Say,
) -> Iterator[RegionVm]:
    packer = request.config.getoption("--packer") or shutil.which("packer")
    directory = tmp_path_factory.mktemp("vm")
    tools = directory / "tools.raw"
    make_tools_disk(
        tools,
        [
            Path(packer or BUILD / "tools" / "packer"),
            request.config.getoption("--plugin"),
            made("bootable.tar.zst"),
            *HERE.glob("*.pkr.hcl"),
        ],
    )
    image = made("bootable.raw")
    with running_vm(image, directory, accelerator, tools=tools, say=say) as vm:
        yield vm
    tools.unlink()


def check_that_they_boot(
    vm: RegionVm, accelerator: Accelerator, say: Say, directory: Path, names: Sequence[str]
) -> None:
    """Check and boot the exported root volumes of the OMIs, each named as its host is."""

    def boot(name: str) -> tuple[str, float]:
        file = directory / f"{name}.raw"
        vm.cloud.export(vm.omi(name), file)
        # A disk with one partition, at 1 MiB: read-only, nothing to be found.
        subprocess.run(["e2fsck", "-fn", f"{file}?offset={MIB}"], check=True, capture_output=True)
        try:
            with Machine(file, directory / name, accelerator) as machine:
                return machine.wait_for_login(timeout=300)
        finally:
            file.unlink()  # pytest keeps directories.

    with ThreadPoolExecutor() as pool:
        for name, (login, seconds) in zip(names, pool.map(boot, names), strict=True):
            say(f"OMI {vm.omi(name)} ({name}) boots in {seconds:.1f} s: {login}")
            assert login.startswith(f"{name} login:")


def test_two_omis_from_a_source_at_once(
    vm: RegionVm, accelerator: Accelerator, say: Say, tmp_path: Path
) -> None:
    only = "-only=osc-chroot.one,osc-chroot.two"
    build = vm.build(only, "sources.pkr.hcl", timeout=600)
    say(f"two OMIs at once: {build}")
    assert build.partitions == ["/dev/sda1", "/dev/sdb1"], "as this kernel names them"
    assert len(build.disks) == 2
    check_that_they_boot(vm, accelerator, say, tmp_path, ["one", "two"])


def test_an_omi_from_scratch_out_of_a_tarball(
    vm: RegionVm, accelerator: Accelerator, say: Say, tmp_path: Path
) -> None:
    build = vm.build("-var=tarball=bootable.tar.zst", "tarball.pkr.hcl", timeout=600)
    say(f"an OMI from a tarball: {build}")
    check_that_they_boot(vm, accelerator, say, tmp_path, ["from-tarball"])


def test_an_nvme_disk_is_found(vm: RegionVm, say: Say) -> None:
    vm.attacher.bus = "nvme"
    build = vm.build("-only=osc-chroot.nvme", "sources.pkr.hcl", timeout=600)
    say(f"OMI {vm.omi('nvme')} (nvme): {build}")
    assert build.partitions == ["/dev/nvme0n1p1"]
