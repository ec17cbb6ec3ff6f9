"""The figures of one run: each is measured, and its lower bound with it."""

import dataclasses
import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bench.memory import Peak
from bench.report import Figure, Sample
from bench.straight import transfers
from bench.subject import TRUE, Subject, settle, timed
from packer_plugin_osc_chroot.localcloud.latency import PRESETS, Latency
from packer_plugin_osc_chroot.localcloud.trouble import Rate

_SHELLS = 11
_MANY_TRUES = 50
_FROM_SCRATCH: Mapping[str, object] = {
    "from_scratch": True,
    "root_volume_size": 1,
    "root_device_name": "/dev/sda1",
    "omi_virtualization_type": "hvm",
    "omi_block_device_mappings": [{"device_name": "/dev/sda1", "delete_on_vm_deletion": True}],
    "chroot_mounts": [],
    "pre_mount_commands": [
        "echo 'start=1MiB, type=83, bootable' | sfdisk --quiet --label dos {{.Device}}",
        "mkfs.ext4 -q {{.PartitionDevice}}",
    ],
}


@dataclasses.dataclass(frozen=True)
class Scale:
    """How much of everything: `time` multiplies latencies, sizes are in bytes, `files` are numbers.

    The `straight` ones go without Packer, whose file provisioner is slow.
    """

    time: float = 1.0
    size: int = 256 << 20
    files: int = 5000
    straight_size: int = 1 << 30
    straight_files: int = 20_000
    builds: Sequence[int] = (2, 8, 32)
    crowd: int = 8

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
    yield from _memory("one build", typical.memory)
    off = subject.build(scale.latency(OFF_GRID))
    yield Figure("build, off grid", "s", "critical path"), Sample(off.seconds, off.path)
    foreign = subject.build(scale.latency(TYPICAL), is_foreign=True)
    yield (
        Figure("build, another account's OMI", "s", "critical path"),
        Sample(foreign.seconds, foreign.path),
    )
    scratch = subject.build(scale.latency(TYPICAL), options=_FROM_SCRATCH, provisioners=())
    yield (
        Figure("build, from scratch", "s", "critical path"),
        Sample(scratch.seconds, scratch.path),
    )


def _memory(when: str, memory: Peak) -> Measured:
    """All processes together, and the largest of each program."""
    yield Figure(f"memory, {when}: all", "MiB"), Sample(memory.sum)
    for program, size in sorted(memory.programs.items()):
        kind = "a service" if program.endswith("-service") else "a plugin"
        yield Figure(f"memory, {when}: {kind}", "MiB"), Sample(size)


def many(subject: Subject, scale: Scale) -> Measured:
    """Builds side by side, at typical latencies: alone, in company, and below a limit of calls."""
    typical = scale.latency(TYPICAL)
    one = subject.build(typical).seconds
    for number in scale.builds:
        built = subject.build(typical, builds=number)
        yield Figure(f"{number} builds, typical", "s", "one build"), Sample(built.seconds, one)
        yield from _memory(f"{number} builds", built.memory)
    number = scale.crowd
    built = subject.build(typical, builds=number, has_company=True)
    yield (
        Figure(f"{number} builds, somebody else links", "s", "one build"),
        Sample(built.seconds, one),
    )
    limit = [Rate(per="account", calls_per_second=5)]
    built = subject.build(typical, builds=number, rates=limit)
    yield Figure(f"{number} builds, 5 calls a second", "s", "one build"), Sample(built.seconds, one)


def inside(subject: Subject, scale: Scale) -> Measured:
    """Provisioners, each from its first word to the next one's."""
    trues = timed(lambda: [subprocess.run(["/bin/true"], check=True) for _ in range(_MANY_TRUES)])
    with _files(subject.directory / "inside", scale.size, scale.files) as local:
        cp, tar = _copied(local), _tarred(local)
        provisioners = [
            *[TRUE] * _SHELLS,
            _up(f"{local}/big", "/root/big"),
            _down("/root/big", f"{local}/copy"),
            _up(f"{local}/few/", "/root/few/"),
            _down("/root/few/", f"{local}/few-copy/"),
            TRUE,
        ]
        built = subject.build(PRESETS["zero"], provisioners=provisioners)
        *shells, upload, download, files_up, files_down = built.provisioners
    shell = statistics.median(shells)
    yield Figure("one more shell provisioner", "s", "/bin/true"), Sample(shell, trues / _MANY_TRUES)
    size = f"{scale.size >> 20} MiB"
    yield Figure(f"upload of {size}", "s", "cp"), Sample(upload, cp)
    yield Figure(f"download of {size}", "s", "cp"), Sample(download, cp)
    yield Figure(f"upload of {scale.files} files", "s", "tar"), Sample(files_up, tar)
    yield Figure(f"download of {scale.files} files", "s", "tar"), Sample(files_down, tar)


def straight(subject: Subject, scale: Scale) -> Measured:
    """Transfers through shim and service alone, and the memory of these when Packer makes them."""
    with tempfile.TemporaryDirectory(prefix="straight-", dir=subject.directory) as name:
        local = _filled(Path(name), scale.straight_size, 0)
        provisioners = [
            _up(f"{local}/big", "/root/big"),
            _down("/root/big", f"{local}/copy"),
            TRUE,
        ]
        built = subject.build(PRESETS["zero"], provisioners=provisioners)
        (local / "copy").unlink()
        size = f"{scale.straight_size >> 20} MiB"
        yield from _memory(f"{size} up and down", built.memory)
        if subject.needs_proxy:
            return
        with transfers(local.parent) as through:
            for way in ("upload", "download"):
                sample = Sample(bound=_copied(local), value=through.seconds(way))
                yield Figure(f"straight: {way} of {size}", "s", "cp"), sample
    with (
        _files(subject.directory / "straight", 0, scale.straight_files) as local,
        transfers(local.parent) as through,
    ):
        for way in ("upload", "download"):
            sample = Sample(bound=_tarred(local), value=through.seconds(f"{way}_tree"))
            yield Figure(f"straight: {way} of {scale.straight_files} files", "s", "tar"), sample


def _filled(directory: Path, size: int, files: int) -> Path:
    """A new directory `local` in that one, with a file `big` and a tree `few` of small files."""
    local = directory / "local"
    (local / "few").mkdir(parents=True)
    with open(local / "big", "wb") as file:
        for _ in range(0, size, 1 << 20):
            file.write(os.urandom(1 << 20))
    for number in range(files):
        (local / "few" / f"{number:05}").write_bytes(b"x" * 1000)
    return local


@contextmanager
def _files(directory: Path, size: int, files: int) -> Iterator[Path]:
    """`_filled` on an ext4 of its own, at a directory that is made.

    ext4 avoids inodes that were freed in the last minutes and looks at each of them, so that files are
    made slowly where as many have just been removed (linux, fs/ext4/ialloc.c: recently_deleted).
    """
    directory.mkdir()
    with ExitStack() as stack:
        stack.callback(directory.rmdir)
        beside = directory.parent
        image = stack.enter_context(tempfile.NamedTemporaryFile(prefix="files-", dir=beside))
        image.truncate(6 * size + (files << 15) + (128 << 20))
        options = ["-q", "-m0", "-i4096", "-Elazy_itable_init=0,lazy_journal_init=0"]
        subprocess.run(["mkfs.ext4", *options, image.name], check=True)
        subprocess.run(["mount", "-o", "loop", image.name, str(directory)], check=True)
        stack.callback(subprocess.run, ["umount", str(directory)], check=True)
        yield _filled(directory, size, files)


def _copied(local: Path) -> float:
    settle()
    copy = local / "copied"
    seconds = timed(subprocess.run, ["cp", str(local / "big"), str(copy)], check=True)
    copy.unlink()
    return seconds


def _tarred(local: Path) -> float:
    """What it makes stays, as long as files are measured."""
    settle()
    tree = Path(tempfile.mkdtemp(prefix="tarred-", dir=local)) / "tree"
    script = 'mkdir "$1" && tar -C "$0" -c . | tar -C "$1" -x'
    argv = ["sh", "-c", script, str(local / "few"), str(tree)]
    return timed(subprocess.run, argv, check=True)


def _up(source: str, destination: str) -> Mapping[str, object]:
    return {"type": "file", "source": source, "destination": destination}


def _down(source: str, destination: str) -> Mapping[str, object]:
    return {**_up(source, destination), "direction": "download"}


GROUPS: Mapping[str, Callable[[Subject, Scale], Measured]] = {
    "start": start,
    "single": single,
    "many": many,
    "inside": inside,
    "straight": straight,
}


def timelines(subject: Subject, scale: Scale, directory: Path) -> Iterator[Path]:
    """Of one build and of eight."""
    for number in (1, 8):
        file = directory / f"timeline-{number}.svg"
        file.unlink(missing_ok=True)
        subject.build(scale.latency(TYPICAL), builds=number, timeline=file)
        yield file
