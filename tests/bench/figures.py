"""The figures of one run: each is measured, and its lower bound with it."""

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bench.report import Figure, Sample
from bench.subject import Subject, timed
from packer_plugin_osc_chroot.localcloud.latency import PRESETS, Latency
from packer_plugin_osc_chroot.localcloud.trouble import Rate

_TRUE: Mapping[str, object] = {"type": "shell", "inline": ["true"]}
_MORE_SHELLS = 10
_MANY_TRUES = 50


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much of everything: `time` multiplies latencies, `size` is in bytes, `files` a number."""

    time: float = 1.0
    size: int = 256 << 20
    files: int = 5000
    builds: Sequence[int] = (2, 8, 32)
    throttled: int = 8

    def latency(self, latency: Latency) -> Latency:
        times = {
            field.name: getattr(latency, field.name) * self.time
            for field in dataclasses.fields(latency)
            if field.name not in ("call", "calls")
        }
        return dataclasses.replace(latency, **times)


TYPICAL = PRESETS["typical"]
OFF_GRID = Latency(call=0.05, volume=3.5, link=2.6, unlink=2.6, snapshot=21.0, image=1.5)

Measured = Iterator[tuple[Figure, Sample]]


def start(subject: Subject, scale: Scale) -> Measured:
    """What Packer asks before each command."""
    plugin = str(subject.packer.plugin)
    describe = timed(subprocess.run, [plugin, "describe"], check=True, capture_output=True)
    true = timed(subprocess.run, ["/bin/true"], check=True, capture_output=True)
    yield Figure("describe", "s", "/bin/true"), Sample(describe, true)
    yield (
        Figure("validate", "s", "null builder"),
        Sample(subject.validate(), subject.null("validate")),
    )


def single(subject: Subject, scale: Scale) -> Measured:
    """One build: without latencies, with typical ones, and with some off any grid."""
    null = subject.null("build")
    zero = subject.build(PRESETS["zero"])
    yield Figure("build, zero latency", "s", "null builder"), Sample(zero.seconds, null)
    yield Figure("build, zero latency, above null", "s"), Sample(zero.seconds - null)
    yield Figure("calls, zero latency", ""), Sample(zero.calls)
    typical = subject.build(scale.latency(TYPICAL))
    yield Figure("build, typical", "s", "critical path"), Sample(typical.seconds, typical.path)
    yield Figure("calls, typical", ""), Sample(typical.calls)
    yield Figure("memory, one build", "MiB"), Sample(typical.memory.sum)
    yield Figure("memory, largest process", "MiB"), Sample(typical.memory.process)
    off = subject.build(scale.latency(OFF_GRID))
    yield Figure("build, off grid", "s", "critical path"), Sample(off.seconds, off.path)


def many(subject: Subject, scale: Scale) -> Measured:
    """Builds side by side, at typical latencies, and below a limit of calls."""
    one = subject.build(scale.latency(TYPICAL)).seconds
    for number in scale.builds:
        built = subject.build(scale.latency(TYPICAL), builds=number)
        yield Figure(f"{number} builds, typical", "s", "one build"), Sample(built.seconds, one)
        yield Figure(f"memory, {number} builds", "MiB"), Sample(built.memory.sum)
    limit = [Rate(per="account", calls_per_second=5)]
    number = scale.throttled
    built = subject.build(scale.latency(TYPICAL), builds=number, rates=limit)
    yield Figure(f"{number} builds, 5 calls a second", "s", "one build"), Sample(built.seconds, one)


def inside(subject: Subject, scale: Scale) -> Measured:
    """Provisioners: what they take beyond a build with one that does nothing."""
    zero = PRESETS["zero"]
    base = subject.build(zero).seconds

    def beyond(*provisioners: Mapping[str, object]) -> float:
        built = subject.build(zero, provisioners=[_TRUE, *provisioners])
        return max(built.seconds - base, 0.001)

    trues = timed(lambda: [subprocess.run(["/bin/true"], check=True) for _ in range(_MANY_TRUES)])
    shell = beyond(*[_TRUE] * _MORE_SHELLS) / _MORE_SHELLS
    yield Figure("one more shell provisioner", "s", "/bin/true"), Sample(shell, trues / _MANY_TRUES)

    big, few = subject.directory / "big", subject.directory / "few"
    copy = subject.directory / "copy"
    with open(big, "wb") as file:
        for _ in range(0, scale.size, 1 << 20):
            file.write(os.urandom(1 << 20))
    few.mkdir(exist_ok=True)
    for number in range(scale.files):
        (few / f"{number:05}").write_bytes(b"x" * 1000)
    cp = timed(subprocess.run, ["cp", str(big), str(copy)], check=True)
    up = {"type": "file", "source": str(big), "destination": "/root/big"}
    down = {
        "type": "file",
        "direction": "download",
        "source": "/root/big",
        "destination": str(copy),
    }
    mebibytes = scale.size >> 20
    upload = beyond(up)
    yield Figure(f"upload of {mebibytes} MiB", "s", "cp"), Sample(upload, cp)
    download = max(beyond(up, down) - upload, 0.001)
    yield Figure(f"download of {mebibytes} MiB", "s", "cp"), Sample(download, cp)
    tree = subject.directory / "tree"
    script = 'mkdir "$1" && tar -C "$0" -c . | tar -C "$1" -x'
    tar = timed(subprocess.run, ["sh", "-c", script, str(few), str(tree)], check=True)
    shutil.rmtree(tree)
    files = beyond({"type": "file", "source": f"{few}/", "destination": "/root/few/"})
    yield Figure(f"upload of {scale.files} files", "s", "tar"), Sample(files, tar)
    for path in (big, copy):
        path.unlink()
    shutil.rmtree(few)


GROUPS: Mapping[str, Callable[[Subject, Scale], Measured]] = {
    "start": start,
    "single": single,
    "many": many,
    "inside": inside,
}


def timelines(subject: Subject, scale: Scale, directory: Path) -> Iterator[Path]:
    """Of one build and of eight."""
    for number in (1, 8):
        file = directory / f"timeline-{number}.svg"
        file.unlink(missing_ok=True)
        subject.build(scale.latency(TYPICAL), builds=number, timeline=file)
        yield file
