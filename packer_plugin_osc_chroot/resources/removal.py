"""Making one resource of the cloud, and taking it back, also where no answer ever told its id."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from packer_plugin_osc_chroot.cancel import CancelToken, undo_token
from packer_plugin_osc_chroot.cloud.client import is_ambiguous
from packer_plugin_osc_chroot.cloud.wait import look_for
from packer_plugin_osc_chroot.errors import BuildError, CloudError, UndoError
from packer_plugin_osc_chroot.ui import Ui


@dataclasses.dataclass
class Attempt:
    """A resource that is being made: its id once it is known, or that it was clearly refused."""

    resource_id: str = ""
    refused: bool = False

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Around the call that makes it. A conflict may come from an earlier try that was done."""
        try:
            yield
        except CloudError as error:
            self.refused = not is_ambiguous(error) and error.status != 409
            raise


@dataclasses.dataclass(frozen=True)
class Removal:
    """How one kind of resource goes.

    `unnamed` describes it as long as its id is not known, and `find` looks for it then. `action` and
    `parameter` are what a user can do by hand.
    """

    kind: str
    action: str
    parameter: str
    unnamed: str
    find: Callable[[CancelToken], str | None]
    delete: Callable[[str, CancelToken], None]

    def run(self, attempt: Attempt, *, ui: Ui) -> None:
        """Without an id it is looked for, as long as the API may not show it yet.

        Raises UndoError naming what is left and the command that removes it.
        """
        if attempt.refused:
            return
        token = undo_token()
        key = attempt.resource_id
        try:
            key = key or look_for(lambda: self.find(token), token=token) or ""
            if key:
                ui.say(f"Deleting {self.kind} {key}...")
                self.delete(key, token)
        except BuildError as error:
            what = f"{self.kind} {key or self.unnamed}"
            raise UndoError(
                f"{what} is left behind: {error.message}",
                left=(what,),
                hint=f"Delete it: osc-cli api {self.action} --{self.parameter} {key or '…'}",
            ) from error
