"""`make release`, and its files as users get them: packer installs them, pip installs them."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from packer_run import TIMEOUT, Outcome, Packer, Running
from release_host import API, SITE, ReleaseHost

from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud

# Builds for other systems take minutes where Go has none of them in its cache.
pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parents[2]
VERSION = "0.9.0"
BEFORE = "0.8.0"
OWNER = "someone-else"
PLUGIN = "packer-plugin-osc-chroot"
BINARY = f"{PLUGIN}_v{VERSION}_x5.0_linux_amd64"
TEMPLATE = """
packer {
  required_plugins {
    osc-chroot = {
      version = ">= 0.8.0"
      source  = "github.com/someone-else/osc-chroot"
    }
  }
}

source "osc-chroot" "guest" {
  source_omi = "ami-00000001"
  omi_name   = "made {{timestamp}}"
}

build {
  sources = ["source.osc-chroot.guest"]
}
"""


WITH_DATA_SOURCE = (
    TEMPLATE.replace('"ami-00000001"', "data.osc-chroot-omi.base.id")
    + """
data "osc-chroot-omi" "base" {
  owners = ["self"]
}
"""
)


def make_release(
    directory: Path, name: str, *arguments: str, version: str = VERSION, **variables: str
) -> Path:
    output = directory / name
    command = [
        *(sys.executable, str(ROOT / "scripts" / "release.py")),
        *(f"--version={version}", f"--owner={OWNER}"),
        *(f"--output={output}", f"--work={directory / f'{name}.work'}", *arguments),
    ]
    done = subprocess.run(
        ["sh", "-c", f'umask {variables.pop("umask", "022")}; exec "$@"', "sh", *command],
        cwd=directory,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (directory / f"{name}.log").write_text(done.stdout)
    return output


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("release")


@pytest.fixture(scope="session")
def release(workplace: Path) -> Path:
    return make_release(workplace, "release")


@pytest.fixture(scope="session")
def release_before(workplace: Path) -> Path:
    return make_release(workplace, "before", "--without-bundle", version=BEFORE)


@pytest.fixture(scope="session")
def binary(release: Path, workplace: Path) -> Path:
    return unpack(release / f"{BINARY}.zip", workplace / "binary")


@pytest.fixture(scope="session")
def bare_binary(release_before: Path, workplace: Path) -> Path:
    """A build for this machine without a bundle."""
    name = BINARY.replace(VERSION, BEFORE)
    return unpack(release_before / f"{name}.zip", workplace / "bare")


def unpack(archive: Path, directory: Path) -> Path:
    with zipfile.ZipFile(archive) as content:
        (name,) = content.namelist()
        file = Path(content.extract(name, directory))
    file.chmod(0o755)
    return file


def output_of(*argv: str | Path, **variables: str) -> str:
    environment = {**os.environ, **variables}
    return subprocess.run(argv, env=environment, check=True, capture_output=True, text=True).stdout


def test_the_same_bytes_elsewhere_and_later(release: Path, workplace: Path) -> None:
    again = make_release(workplace, "again, elsewhere", umask="077", TZ="Asia/Tokyo", LC_ALL="C")

    def sums(directory: Path) -> dict[str, str]:
        return {
            file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in directory.iterdir()
        }

    assert sums(release) == sums(again)
    # Nor does it matter where the virtualenv is.
    frozen = [file for file in (workplace / "release.work" / "bundle").rglob("*") if file.is_file()]
    assert frozen
    assert not [file for file in frozen if file.name == "RECORD"]


def test_every_file_is_there_under_its_name(release: Path, workplace: Path) -> None:
    systems = ("linux_amd64", "linux_arm64", "darwin_amd64", "darwin_arm64", "windows_amd64")
    zips = {f"{PLUGIN}_v{VERSION}_x5.0_{system}.zip" for system in systems}
    assert {file.name for file in release.iterdir()} == zips | {
        f"{PLUGIN}_v{VERSION}_SHA256SUMS",
        f"{PLUGIN}_v{VERSION}_sbom.cdx.json",
        f"packer_plugin_osc_chroot-{VERSION}-py3-none-any.whl",
        f"packer_plugin_osc_chroot-{VERSION}.tar.gz",
    }
    for name in zips:
        with zipfile.ZipFile(release / name) as archive:
            (entry,) = archive.infolist()
        ending = ".exe" if "windows" in name else ""
        assert entry.filename == name.removesuffix(".zip") + ending
        assert entry.external_attr >> 16 == 0o100755
    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", f"{PLUGIN}_v{VERSION}_SHA256SUMS"],
        cwd=release,
        check=True,
        capture_output=True,
        text=True,
    )
    assert checked.stdout.count(": OK") == len(zips) + 3
    # The floor that users are told of is read from the files.
    told = re.findall(r"needs glibc (\d+\.\d+) or newer", (workplace / "release.log").read_text())
    assert len(told) == 1


def test_one_version_everywhere(release: Path, binary: Path, tmp_path: Path) -> None:
    described = json.loads(output_of(binary, "describe"))
    assert (described["version"], described["api_version"]) == (VERSION, "x5.0")
    assert output_of(binary, "--version") == f"{PLUGIN} {VERSION}\n"
    told = output_of(binary, "--help")
    assert f"Version {VERSION}." in told
    assert f"packer plugins install github.com/{OWNER}/osc-chroot\n" in told
    wheel = next(release.glob("*.whl"))
    shutil.unpack_archive(wheel, tmp_path, "zip")
    metadata = (tmp_path / f"packer_plugin_osc_chroot-{VERSION}.dist-info" / "METADATA").read_text()
    assert f"\nVersion: {VERSION}\n" in metadata
    asked = "from packer_plugin_osc_chroot.cloud.client import USER_AGENT; print(USER_AGENT)"
    told = output_of(sys.executable, "-P", "-c", asked, PYTHONPATH=str(tmp_path))
    assert told == f"{PLUGIN}/{VERSION}\n"
    # The working tree is as it was.
    assert f'"{VERSION}"' not in (ROOT / "packer_plugin_osc_chroot" / "version.py").read_text()


def test_the_bill_of_materials_names_what_is_inside(release: Path) -> None:
    bill = json.loads((release / f"{PLUGIN}_v{VERSION}_sbom.cdx.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    assert bill["metadata"]["component"]["version"] == VERSION
    found = {part["bom-ref"]: part for part in bill["components"]}
    assert len(found) == len(bill["components"])
    assert bill["dependencies"][0]["dependsOn"] == list(found)
    names = {(ref.split("/")[0], part["name"]) for ref, part in found.items()}
    assert {
        ("pkg:golang", "google.golang.org/grpc"),
        ("pkg:golang", "github.com/hashicorp/packer-plugin-sdk"),
        ("pkg:golang", "std"),
        ("pkg:pypi", "grpcio"),
        ("pkg:pypi", "osc-sdk-python"),
        ("pkg:generic", "python"),
    } <= names
    locked = (ROOT / "requirements" / "run.txt").read_text()
    for name, version in re.findall(r"(?m)^([a-z0-9-]+)==([^ ]+)", locked):
        assert f"pkg:pypi/{name}@{version}" in found
    libraries = [ref for ref in found if ref.startswith("file:libpython3")]
    assert len(libraries) == 1 and found[libraries[0]]["hashes"]


@dataclass(frozen=True)
class Installer:
    """The unmodified packer where only the release host is reached, with a home of its own."""

    packer: Packer
    host: ReleaseHost
    home: Path

    @property
    def variables(self) -> dict[str, str]:
        return {
            "PACKER_CONFIG_DIR": str(self.home),
            "PACKER_PLUGIN_PATH": str(self.home / "plugins"),
        }

    def publish(self, release: Path, version: str) -> Path:
        """Put the release where the host has it; the copy."""
        copy = self.host.root / OWNER / PLUGIN / f"v{version}"
        shutil.copytree(release, copy)
        return copy

    def run(self, *arguments: str) -> Outcome:
        environment = self.host.environment(self.packer.environment(None, self.variables))
        argv = self.host.argv(str(self.packer.binary), *arguments)
        return Running(argv, cwd=self.home, environment=environment).wait(timeout=TIMEOUT)

    def installed(self) -> list[str]:
        files = (self.home / "plugins").rglob(f"{PLUGIN}_*amd64")
        return sorted(file.name for file in files)


@pytest.fixture
def installer(packer: Packer, tmp_path: Path) -> Iterator[Installer]:
    for name in ("host", "published", "home"):
        (tmp_path / name).mkdir()
    (tmp_path / "home" / "guest.pkr.hcl").write_text(TEMPLATE)
    host = ReleaseHost(tmp_path / "published", tmp_path / "host")
    yield Installer(packer, host, tmp_path / "home")


def test_packer_init_installs_it_and_builds(
    installer: Installer, release: Path, cloud: LocalCloud
) -> None:
    installer.publish(release, VERSION)

    outcome = installer.run("init", "guest.pkr.hcl")

    assert outcome.status == 0, outcome.output
    assert f"Installed plugin github.com/{OWNER}/osc-chroot v{VERSION}" in outcome.output
    assert installer.installed() == [BINARY]
    asked = installer.host.requests()
    assert f"{API}/repos/{OWNER}/{PLUGIN}/git/matching-refs/tags" in asked
    path = f"{SITE}/{OWNER}/{PLUGIN}/releases/download/v{VERSION}"
    assert f"{path}/{PLUGIN}_v{VERSION}_SHA256SUMS" in asked
    assert f"{path}/{BINARY}.zip" in asked

    built = installer.packer.run(
        *("build", "-color=false", "guest.pkr.hcl"),
        cwd=installer.home,
        cloud=cloud,
        extra=installer.variables,
    )
    assert built.status == 0, built.output
    assert len(cloud.images()) == 1


def test_packer_plugins_install_as_the_help_says(
    installer: Installer, release: Path, binary: Path
) -> None:
    installer.publish(release, VERSION)
    (told,) = re.findall(r"packer (plugins install .*)", output_of(binary, "--help"))

    outcome = installer.run(*told.split())

    assert outcome.status == 0, outcome.output
    assert installer.installed() == [BINARY]


def test_a_wrong_checksum_is_refused(installer: Installer, release: Path) -> None:
    published = installer.publish(release, VERSION)
    with (published / f"{BINARY}.zip").open("ab") as archive:
        archive.write(b"one more")

    outcome = installer.run("init", "guest.pkr.hcl")

    assert outcome.status != 0
    assert re.search(r"Checksums .* did not match", outcome.output)
    # What else is in the list of checksums is no concern of Packer's.
    assert "could not parse checksum filename" not in outcome.output
    assert installer.installed() == []


def test_the_version_before_is_upgraded(
    installer: Installer, release: Path, release_before: Path
) -> None:
    installer.publish(release_before, BEFORE)
    outcome = installer.run("init", "guest.pkr.hcl")
    assert outcome.status == 0, outcome.output
    old = BINARY.replace(VERSION, BEFORE)
    assert installer.installed() == [old]
    installer.publish(release, VERSION)

    # What is there will do, unless it is asked for more.
    assert installer.run("init", "guest.pkr.hcl").status == 0
    assert installer.installed() == [old]
    outcome = installer.run("init", "-upgrade", "guest.pkr.hcl")

    assert outcome.status == 0, outcome.output
    assert installer.installed() == [old, BINARY]


@pytest.fixture(scope="session")
def interpreter(release_before: Path, workplace: Path) -> Path:
    """A Python into which pip installed the wheel; its requirements are those of the tests."""
    return make_interpreter(workplace / "with wheel", next(release_before.glob("*.whl")))


def make_interpreter(directory: Path, distribution: Path | None) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    python = directory / "bin" / "python"
    packages = Path(
        output_of(python, "-c", "import site; print(site.getsitepackages()[0])").strip()
    )
    (packages / "requirements.pth").write_text(sysconfig.get_path("purelib") + "\n")
    if distribution is not None:
        pip = (sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check")
        output_of(*pip, "install", "--no-index", "--no-deps", "--no-build-isolation", distribution)
    return python


def validate(
    packer: Packer, plugin: Path, home: Path, template: str = TEMPLATE, **variables: str
) -> Outcome:
    home.mkdir()
    (home / "guest.pkr.hcl").write_text(template)
    extra = {
        "PACKER_CONFIG_DIR": str(home),
        "PACKER_PLUGIN_PATH": str(home / "plugins"),
        **variables,
    }
    install = ("plugins", "install", "--path", str(plugin), f"github.com/{OWNER}/osc-chroot")
    outcome = packer.run(*install, cwd=home, extra=extra)
    assert outcome.status == 0, outcome.output
    return packer.run("validate", "guest.pkr.hcl", cwd=home, extra=extra)


def test_without_a_bundle_and_with_the_wheel_it_validates(
    packer: Packer, bare_binary: Path, interpreter: Path, tmp_path: Path
) -> None:
    told = validate(
        *(packer, bare_binary, tmp_path / "home", WITH_DATA_SOURCE),
        OSC_CHROOT_PYTHON=str(interpreter),
    )
    assert told.status == 0, told.output
    assert "The configuration is valid." in told.output


@pytest.mark.parametrize("template", [TEMPLATE, WITH_DATA_SOURCE], ids=["builder", "data-source"])
def test_without_a_bundle_it_says_what_is_missing(
    packer: Packer, bare_binary: Path, tmp_path: Path, template: str
) -> None:
    python = make_interpreter(tmp_path / "without wheel", None)
    told = validate(packer, bare_binary, tmp_path / "home", template, OSC_CHROOT_PYTHON=str(python))
    assert told.status == 1
    assert (
        f"{python} has no package packer_plugin_osc_chroot: install the wheel of version {BEFORE}"
        " there, or set OSC_CHROOT_PYTHON to an interpreter that has it"
    ) in " ".join(told.output.split())
    command = subprocess.run(
        [bare_binary, "localcloud", "status"],
        cwd=tmp_path,  # Not where the source tree is.
        env={**os.environ, "OSC_CHROOT_PYTHON": str(python)},
        capture_output=True,
        text=True,
    )
    assert command.returncode == 1
    assert f"{python} has no package packer_plugin_osc_chroot" in command.stderr

    nothing = tmp_path / "nothing"
    nothing.mkdir()
    nobody = {"PATH": str(nothing), "OSC_CHROOT_PYTHON": ""}
    told = validate(packer, bare_binary, tmp_path / "bare", template, **nobody)
    assert told.status == 1
    assert (
        "there is no python3 on PATH: this build of the plugin has no Python inside" in told.output
    )


def test_a_wheel_of_another_version_is_refused(
    packer: Packer, bare_binary: Path, release: Path, tmp_path: Path
) -> None:
    python = make_interpreter(tmp_path / "other wheel", next(release.glob("*.whl")))
    told = validate(packer, bare_binary, tmp_path / "home", OSC_CHROOT_PYTHON=str(python))
    assert told.status == 1
    assert f"version {VERSION} of the package packer_plugin_osc_chroot" in " ".join(
        told.output.split()
    )


def test_pip_installs_the_sdist(release: Path, tmp_path: Path) -> None:
    python = make_interpreter(tmp_path / "sdist", next(release.glob("*.tar.gz")))
    program = python.parent / f"{PLUGIN}-service"
    assert output_of(program, "--version") == f"{PLUGIN} {VERSION}\n"
    where = output_of(
        python, "-P", "-c", "import packer_plugin_osc_chroot as package; print(package.__file__)"
    )
    assert where.startswith(str(tmp_path))
