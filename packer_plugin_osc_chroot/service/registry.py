"""What lives between the calls of the contract: one registry for each service process."""

import dataclasses
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.options.config import AccessOptions
from packer_plugin_osc_chroot.options.prepare import Prepared
from packer_plugin_osc_chroot.redaction import Redactor

if TYPE_CHECKING:
    # Not needed to validate, and slow to import.
    from packer_plugin_osc_chroot.artifact import Artifact
    from packer_plugin_osc_chroot.context import Communicator


@dataclasses.dataclass
class PreparedBuilder:
    prepared: Prepared
    token: CancelToken


@dataclasses.dataclass(frozen=True)
class OpenCommunicator:
    """A communicator that provisioners may use now, and the token that ends its work."""

    communicator: "Communicator"
    token: CancelToken


class Registry:
    """What lives between calls: prepared builders and data sources, running builds, communicators,
    artifacts."""

    def __init__(self, *, environ: Mapping[str, str], redact: Redactor) -> None:
        self.environ = environ
        self.redact = redact
        self.started_at = datetime.now(UTC)
        self.lock = threading.Lock()
        self.builders: dict[str, PreparedBuilder] = {}
        self.data_sources: dict[str, AccessOptions] = {}
        self.evaluations: set[CancelToken] = set()
        self.communicators: dict[str, OpenCommunicator] = {}
        self.artifacts: dict[str, Artifact] = {}
        self.threads: set[threading.Thread] = set()

    def cancel_all(self, reason: str) -> None:
        with self.lock:
            builders = list(self.builders.values())
            evaluations = list(self.evaluations)
        for evaluation in evaluations:
            evaluation.cancel(reason)
        for builder in builders:
            # Nobody is left to clean up what -on-error would keep.
            builder.token.cancel(reason, abandoned=True)

    def join(self) -> None:
        """Wait until every build has kept or undone what it made."""
        while True:
            with self.lock:
                running = next(iter(self.threads), None)
            if running is None:
                return
            running.join()
