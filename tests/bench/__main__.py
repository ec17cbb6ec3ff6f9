"""`python -m bench`, run by `make bench`: see --help."""

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from guest_image import make_guest_image

from bench import __doc__ as about
from bench.figures import GROUPS, Scale, timelines
from bench.report import Figure, read, table, write
from bench.subject import Subject, make_subject

_QUICK = Scale(
    time=0.02,
    size=1 << 20,
    files=20,
    straight_size=2 << 20,
    straight_files=20,
    builds=(2,),
    crowd=3,
)
# The largest transfer has to fit.
_IMAGE_SIZE = 3 << 30


def main(arguments: Sequence[str]) -> int:
    options = _options(arguments)
    base = read(options.base) if options.base else {}
    scale = _QUICK if options.quick else Scale()
    with tempfile.TemporaryDirectory(prefix="osc-bench-") as name:
        directory = Path(name)
        image = make_guest_image(directory, size=_IMAGE_SIZE)
        for subject in _subjects(options, image, directory):
            # Once for nothing: the service is unpacked, and files are read from the disk.
            subject.validate()
            figures = _measured(subject, scale, options)
            files = [] if options.no_timeline else timelines(subject, scale, options.json.parent)
            machine = f"{os.cpu_count()} CPUs, {platform.release()}"
            print(f"\n{subject.name}: {options.runs} runs on {machine}")
            for line in table(figures, base if subject.name == "osc-chroot" else {}):
                print(line)
            for file in files:
                print(f"timeline: {file}")
            path = options.json
            if subject.name != "osc-chroot":
                path = path.with_name(f"{path.stem}-{subject.name}{path.suffix}")
            load = [round(each, 2) for each in os.getloadavg()]
            write(path, figures, {"machine": machine, "load": load, "runs": options.runs})
            print(f"written: {path}")
    return 0


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=about)
    parser.add_argument("--plugin", type=Path, required=True)
    parser.add_argument("--packer", type=Path, required=True)
    parser.add_argument("--json", type=Path, default=Path("build/bench/bench.json"))
    parser.add_argument("--base", type=Path, help="a JSON file of an earlier run to compare with")
    parser.add_argument(
        "--rival", type=Path, help="another plugin (type outscale-chroot) to run side by side"
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="tiny figures: a test of the bench")
    parser.add_argument("--only", choices=sorted(GROUPS), action="append", help="some groups only")
    parser.add_argument("--no-timeline", action="store_true")
    return parser.parse_args(arguments)


def _subjects(options: argparse.Namespace, image: Path, directory: Path) -> list[Subject]:
    packer = options.packer.resolve()
    found = [
        make_subject(
            "osc-chroot",
            type="osc-chroot",
            plugin=options.plugin.resolve(),
            source="github.com/outscale/osc-chroot",
            packer=packer,
            image=image,
            directory=directory / "own",
        )
    ]
    if options.rival:
        found.append(
            make_subject(
                "rival",
                type="outscale-chroot",
                plugin=options.rival.resolve(),
                source="github.com/outscale/outscale",
                packer=packer,
                image=image,
                directory=directory / "rival",
                needs_proxy=True,
            )
        )
    return found


def _measured(subject: Subject, scale: Scale, options: argparse.Namespace) -> list[Figure]:
    found: dict[str, Figure] = {}
    for number in range(options.runs):
        for group in options.only or GROUPS:
            for figure, sample in GROUPS[group](subject, scale):
                found.setdefault(figure.name, figure).samples.append(sample)
                shown = f"{sample.value:.3f} {figure.unit}".strip()
                print(f"{subject.name}, run {number + 1}: {figure.name}: {shown}", flush=True)
    return list(found.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
