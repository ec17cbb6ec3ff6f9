"""What is measured: a plugin in a packer of its own, building one template on a localcloud."""

import dataclasses
import itertools
import json
import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from linking_user import somebody_linking
from packer_run import Outcome, Packer

from bench.memory import Peak
from bench.proxy import proxy_to
from packer_plugin_osc_chroot.localcloud.catalogue import AccountEntry, Catalogue, OmiEntry
from packer_plugin_osc_chroot.localcloud.cloud import LocalCloud
from packer_plugin_osc_chroot.localcloud.latency import Latency
from packer_plugin_osc_chroot.localcloud.trouble import Rate, Trouble

SOURCE = "ami-00000001"
TRUE: Mapping[str, object] = {"type": "shell", "inline": ["true"]}
# What Packer's own provisioners say when they begin.
_BEGINS = re.compile(r"==> \S+: (Provisioning with shell script:|Uploading|Downloading) ")


@dataclasses.dataclass(frozen=True)
class Built:
    """How a build went. `path` is the longest critical path of its OMIs, in seconds.

    `provisioners` has the seconds of each provisioner of a single build but the last.
    """

    seconds: float
    path: float
    calls: int
    memory: Peak
    provisioners: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Subject:
    """`type` is the builder's in templates, `program` what its executables' paths hold.

    `needs_proxy`: it knows OUTSCALE's own addresses only.
    """

    name: str
    type: str
    program: str
    packer: Packer
    image: Path
    directory: Path
    needs_proxy: bool = False

    def build(
        self,
        latency: Latency,
        *,
        builds: int = 1,
        provisioners: Sequence[Mapping[str, Any]] = (TRUE,),
        options: Mapping[str, Any] | None = None,
        rates: Sequence[Rate] = (),
        is_foreign: bool = False,
        has_company: bool = False,
        timeline: Path | None = None,
    ) -> Built:
        """Raises AssertionError where it fails, or leaves something behind.

        `is_foreign`: the source OMI is another account's. `has_company`: another user of the VM keeps
        linking a volume.
        """
        extra = self._cache(latency)
        template = self.template(builds=builds, provisioners=provisioners, options=options or {})
        if timeline is not None:
            extra["OSC_CHROOT_TIMELINE"] = str(timeline)
        with ExitStack() as stack:
            cloud = stack.enter_context(
                LocalCloud(
                    latency=latency,
                    trouble=Trouble(rates=rates),
                    catalogue=self._catalogue(is_foreign=is_foreign),
                    https=self.needs_proxy,
                )
            )
            if self.needs_proxy:
                extra |= stack.enter_context(proxy_to(cloud))
            with ExitStack() as company:
                if has_company:
                    company.enter_context(somebody_linking(cloud))
                running = self.packer.start(
                    "build",
                    "-color=false",
                    str(template),
                    cwd=self.directory,
                    cloud=cloud,
                    extra=extra,
                )
                with Peak.watched(running.children, self.program) as memory:
                    outcome = running.wait(timeout=600)
            assert outcome.status == 0, outcome.output
            assert len(cloud.images()) == builds and not cloud.leftovers(), outcome.output
            paths = [cloud.critical_path(image.image_id) for image in cloud.images()]
            calls = [call for call in cloud.record if not call.parameters.get("DryRun")]
        path = max(sum(step.seconds for step in steps) for steps in paths)
        times = _provisioner_times(outcome)
        return Built(outcome.seconds, path, len(calls), memory, times)

    def _catalogue(self, *, is_foreign: bool) -> Catalogue:
        if not is_foreign:
            return Catalogue(omis=[OmiEntry(id=SOURCE, file=str(self.image))])
        omi = OmiEntry(id=SOURCE, file=str(self.image), owner="vendor", shared_with=["mine"])
        return Catalogue(accounts=[AccountEntry("mine"), AccountEntry("vendor")], omis=[omi])

    def _cache(self, latency: Latency) -> dict[str, str]:
        """A VM's own cache: what builds learnt of one Region's times is not to be of another's."""
        cache = self.directory / f"cache-{hash(repr(latency)):x}"
        extra = {"XDG_CACHE_HOME": str(cache)}
        if not cache.exists():
            cache.mkdir(mode=0o700)
            # So that no build has to unpack the service.
            self.validate(extra)
        return extra

    def validate(self, extra: Mapping[str, str] | None = None) -> float:
        template = self.template()
        outcome = self.packer.run("validate", template.name, cwd=self.directory, extra=extra)
        assert outcome.status == 0, outcome.output
        return outcome.seconds

    def null(self, command: str) -> float:
        """What Packer takes for a template whose builder does nothing."""
        template = self.directory / "null.json"
        template.write_text(json.dumps({"builders": [{"type": "null", "communicator": "none"}]}))
        outcome = self.packer.run(command, template.name, cwd=self.directory)
        assert outcome.status == 0, outcome.output
        return outcome.seconds

    def template(
        self,
        *,
        builds: int = 1,
        provisioners: Sequence[Mapping[str, Any]] = (),
        options: Mapping[str, Any] | None = None,
    ) -> Path:
        builders = [
            {
                "type": self.type,
                "name": f"bench-{number}",
                "omi_name": f"bench {number}",
                **(options or {"source_omi": SOURCE}),
                "insecure_skip_tls_verify": self.needs_proxy,
            }
            for number in range(builds)
        ]
        file = self.directory / "template.json"
        file.write_text(json.dumps({"builders": builders, "provisioners": list(provisioners)}))
        return file


def _provisioner_times(outcome: Outcome) -> list[float]:
    begins = [moment for moment, line in outcome.moments if _BEGINS.match(line)]
    return [end - begin for begin, end in itertools.pairwise(begins)]


def make_subject(
    name: str,
    *,
    type: str,
    plugin: Path,
    source: str,
    packer: Path,
    image: Path,
    directory: Path,
    needs_proxy: bool = False,
) -> Subject:
    """Install the plugin, by the name that Packer wants, in a configuration of its own."""
    directory.mkdir(parents=True)
    base = {
        **os.environ,
        "CHECKPOINT_DISABLE": "1",
        "PACKER_CONFIG_DIR": str(directory),
        "PACKER_PLUGIN_PATH": str(directory / "plugins"),
        "XDG_CACHE_HOME": str(directory / "cache"),
    }
    program = f"packer-plugin-{source.rsplit('/', 1)[-1]}"
    named = directory / program
    shutil.copy(plugin, named)
    found = Packer(binary=packer, plugin=named, base=base)
    outcome = found.run("plugins", "install", "--path", str(named), source, cwd=directory)
    assert outcome.status == 0, outcome.output
    return Subject(name, type, program, found, image, directory, needs_proxy)


def settle() -> None:
    """Have what was written be written out: it would slow down whoever writes next."""
    os.sync()


def timed(action: Any, *arguments: Any, **options: Any) -> float:
    begun = time.monotonic()
    action(*arguments, **options)
    return time.monotonic() - begun
