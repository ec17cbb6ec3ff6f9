"""Every call of a test run, checked against the official document of the API.

The localcloud checks each request and each answer, and answers what does not conform as the API would.
Here that fails the test, whatever became of it: a client may take an error lightly.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest

from packer_plugin_osc_chroot.localcloud.openapi import Document, Problem
from packer_plugin_osc_chroot.localcloud.record import Record, RecordedCall


@dataclass
class Conformance:
    """What was seen; `problems` are those of the test that runs."""

    calls: Counter[str] = field(default_factory=Counter)
    version: str = ""
    problems: list[str] = field(default_factory=list)

    def watch(self, patch: pytest.MonkeyPatch, *, requests: bool) -> None:
        """Note all calls of localclouds in this process; `requests`: and what is wrong in them."""
        add_call, add_defect = Record.add_call, Record.add_defect
        check_request = Document.check_request

        def noting_call(record: Record, call: RecordedCall) -> None:
            self.calls[call.action] += 1
            add_call(record, call)

        def noting_defect(record: Record, text: str) -> None:
            # Those of callers are the tests' own business.
            if text.startswith("localcloud: "):
                self.problems.append(text)
            add_defect(record, text)

        def noting_request(document: Document, action: str, body: object) -> list[Problem]:
            self.version = document.version
            found = check_request(document, action, body)
            if requests:
                self.problems += [
                    f"{action}: {problem.path}: {problem.message}" for problem in found
                ]
            return found

        patch.setattr(Record, "add_call", noting_call)
        patch.setattr(Record, "add_defect", noting_defect)
        patch.setattr(Document, "check_request", noting_request)

    def summary(self) -> dict[str, Any]:
        return {"calls": dict(self.calls), "version": self.version}

    def add(self, summary: dict[str, Any]) -> None:
        """What a worker of pytest-xdist saw."""
        self.calls.update(summary["calls"])
        self.version = self.version or summary["version"]

    def __str__(self) -> str:
        return (
            f"{self.calls.total()} API calls of {len(self.calls)} actions were checked against the"
            f" official document {self.version}"
        )


CONFORMANCE = pytest.StashKey[Conformance]()
