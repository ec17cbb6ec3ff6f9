"""The release's bill of materials (CycloneDX 1.6), composed of what the build itself knows: the modules
that Go linked, the lock file, and the libraries that were frozen with the interpreter."""

import hashlib
import importlib.metadata
import platform
import re
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_LICENSE = "MPL-2.0"
_PINNED = re.compile(r"(?m)^([A-Za-z0-9._-]+)==([^\s;\\]+)")

Component = dict[str, Any]


def bill_of_materials(
    *,
    plugin: str,
    version: str,
    owner: str,
    epoch: int,
    go_modules: str,
    lock: str,
    bundle: Path | None,
) -> Mapping[str, Any]:
    """The document. `go_modules` is what `go version -m` says of the binaries, `lock` the text of the
    lock file, `bundle` the frozen tree."""
    purl = f"pkg:github/{owner}/{plugin}@v{version}"
    parts = list(_go(go_modules))
    parts += _python(lock)
    if bundle:
        parts += _frozen(bundle)
    parts.sort(key=lambda part: str(part["bom-ref"]))
    content = "\n".join(str(part) for part in [purl, *parts])
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(epoch, UTC).isoformat().replace("+00:00", "Z"),
            "component": {
                "type": "application",
                "bom-ref": purl,
                "name": plugin,
                "version": version,
                "purl": purl,
                "licenses": [{"license": {"id": _LICENSE}}],
            },
        },
        "components": parts,
        "dependencies": [{"ref": purl, "dependsOn": [part["bom-ref"] for part in parts]}],
    }


def _library(purl: str, name: str, version: str, licence: Component | None = None) -> Component:
    made = {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}
    return {**made, "licenses": [licence]} if licence else made


def _go(text: str) -> Iterator[Component]:
    """The modules of all binaries together, and the Go that compiled them."""
    modules: list[tuple[str, str]] = []
    for line in text.splitlines():
        fields = line.split()
        if not fields:
            continue
        if fields[0] == "=>":  # It stands in for the module of the line before.
            modules[-1] = (fields[1], fields[2])
        elif fields[0] == "dep":
            modules.append((fields[1], fields[2]))
        elif not line.startswith("\t"):  # FILE: go1.2.3
            modules.append(("std", fields[-1].removeprefix("go")))
    for name, version in set(modules):
        licence = {"license": {"id": "BSD-3-Clause"}} if name == "std" else None
        yield _library(f"pkg:golang/{name}@{version}", name, version, licence)


def _python(lock: str) -> Iterator[Component]:
    """What the wheel requires, as locked; the bundle has it inside."""
    for name, version in _PINNED.findall(lock):
        yield _library(f"pkg:pypi/{name}@{version}", name, version, _licence(name))


def _licence(name: str) -> Component | None:
    """As the package says: an SPDX expression in newer ones, in others whatever they call it."""
    metadata = importlib.metadata.metadata(name)
    if "License-Expression" in metadata:
        return {"expression": metadata["License-Expression"]}
    names = [
        each.rsplit(" :: ", 1)[1]
        for each in metadata.get_all("Classifier") or []
        if each.startswith("License ::")
    ]
    if "License" in metadata:
        names.insert(0, metadata["License"].splitlines()[0])
    return {"license": {"name": names[0]}} if names else None


def _frozen(bundle: Path) -> Iterator[Component]:
    """The interpreter, the program that starts it, and the shared libraries that came along."""
    version = platform.python_version()
    yield _library(
        f"pkg:generic/python@{version}", "python", version, {"license": {"id": "PSF-2.0"}}
    )
    loader = importlib.metadata.version("pyinstaller")
    yield _library(f"pkg:pypi/pyinstaller@{loader}", "pyinstaller", loader, _licence("pyinstaller"))
    for file in sorted((bundle / "_internal").glob("lib*.so*")):
        if file.is_file() and not file.is_symlink():
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            yield {
                "type": "file",
                "bom-ref": f"file:{file.name}",
                "name": file.name,
                "hashes": [{"alg": "SHA-256", "content": digest}],
            }
