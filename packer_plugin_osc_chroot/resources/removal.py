"""Taking back one resource of the cloud, also where no answer ever told its id."""

import dataclasses
from collections.abc import Callable

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.errors import BuildError, UndoError
from packer_plugin_osc_chroot.phases import undo_token
from packer_plugin_osc_chroot.ui import Ui


@dataclasses.dataclass(frozen=True)
class Removal:
    """How one kind of resource goes.

    `unnamed` describes it as long as its id is not known, and `find` looks for it then: "" where
    there is none. `action` and `parameter` are what a user can do by hand.
    """

    kind: str
    action: str
    parameter: str
    unnamed: str
    find: Callable[[CancelToken], str]
    delete: Callable[[str, CancelToken], None]

    def run(self, resource_id: str, *, ui: Ui) -> None:
        """Raises UndoError naming what is left and the command that removes it."""
        token = undo_token()
        try:
            resource_id = resource_id or self.find(token)
            if resource_id:
                ui.say(f"Deleting {self.kind} {resource_id}...")
                self.delete(resource_id, token)
        except BuildError as error:
            what = f"{self.kind} {resource_id or self.unnamed}"
            raise UndoError(
                f"{what} is left behind: {error.message}",
                left=(what,),
                hint=f"Delete it: osc-cli api {self.action} --{self.parameter} {resource_id or '…'}",
            ) from error
