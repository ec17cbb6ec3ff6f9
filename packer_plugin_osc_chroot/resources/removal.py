"""Making one resource of the cloud, and taking it back, also where no answer ever told its id."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from packer_plugin_osc_chroot.cancel import CancelToken, undo_token
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.cloud.wait import look_for
from packer_plugin_osc_chroot.errors import BuildError, UndoError
from packer_plugin_osc_chroot.ui import Ui


@dataclasses.dataclass
class Attempt:
    """A resource that is being made: its id once it is known, and whether there may be one at all.

    `may_stand` is what decides whether there is something to undo, or to name as left.
    """

    resource_id: str = ""
    may_stand: bool = False

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Around the call that makes it; may be used again for another try."""
        before, self.may_stand = self.may_stand, True
        try:
            yield
        except BuildError as error:
            self.may_stand = before or error.maybe_done
            raise


def find_made(
    cloud: Cloud, resources: str, key: str, client_token: str, *, token: CancelToken
) -> str | None:
    """The id, below `key`, of what of these resources was made with that ClientToken.

    What is found is deleted: so nothing is without a ClientToken to find it by, as in a journal that
    was cut short, nor what is shown with another one.
    """
    if not client_token:
        return None
    filters = {"ClientTokens": [client_token]}
    for found in cloud.pages(f"Read{resources}", resources, token=token, Filters=filters):
        if (found.get("ClientToken") or client_token) == client_token:
            return str(found[key])
    return None


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

    def describe(self, attempt: Attempt) -> str:
        """What may stand, as a user calls it; empty where nothing does."""
        return f"{self.kind} {attempt.resource_id or self.unnamed}" if attempt.may_stand else ""

    def run(self, attempt: Attempt, *, ui: Ui, token: CancelToken | None = None) -> None:
        """Without an id it is looked for, as long as the API may not show it yet.

        Without a `token` it has the time that undoing has. Raises UndoError naming what is left and
        the command that removes it.
        """
        if not attempt.may_stand:
            return
        token = token or undo_token()
        try:
            if not attempt.resource_id:
                ui.say(f"Looking for the {self.describe(attempt)}, which may have been made...")
                attempt.resource_id = look_for(lambda: self.find(token), token=token) or ""
            if attempt.resource_id:
                ui.say(f"Deleting {self.describe(attempt)}...")
                self.delete(attempt.resource_id, token)
        except BuildError as error:
            what = self.describe(attempt)
            raise UndoError(
                f"{what} is left behind: {error.message}",
                left=(what,),
                hint=f"Delete it: osc-cli api {self.action} --{self.parameter}"
                f" {attempt.resource_id or '…'}",
            ) from error
