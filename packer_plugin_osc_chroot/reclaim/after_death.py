"""What a service does whose predecessor died amid a build: it undoes what that had made."""

import os

from packer_plugin_osc_chroot.cloud.access import find_access
from packer_plugin_osc_chroot.context import Context
from packer_plugin_osc_chroot.errors import UndoError
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.journal.directory import open_directory, state_directory
from packer_plugin_osc_chroot.journal.journal import Journal
from packer_plugin_osc_chroot.plan import plan_wrapper
from packer_plugin_osc_chroot.reclaim.next_build import undo_dead_builds


def undo_after_death(context: Context) -> None:
    """Raises UndoError where something is left, BuildError where nothing could be tried."""
    directory = state_directory(context.environ)
    try:
        os.close(open_directory(directory, make=True))
    except OSError as error:
        raise UndoError(
            f"there is no journal of it, since {directory} cannot be used ({error.strerror})"
        ) from error
    journal = Journal(directory)
    access = find_access(
        context.config,
        context.environ,
        redact=context.redact,
        journal=journal,
        token=context.token,
        ui=context.ui,
    )
    vm_id = access.identity.vm_id
    if access.cloud.one("ReadVms", "Vms", token=context.token, VmIds=[vm_id]) is None:
        # The build may have died before it looked. To credentials of another account everything that
        # a journal names looks as if it were gone, and the journal would go with it.
        raise UndoError(f"VM {vm_id} (this one) is not shown to these credentials")
    left = undo_dead_builds(
        access.cloud,
        vm_id=vm_id,
        host=Host(plan_wrapper(context.config, context.scope)),
        ui=context.ui,
        token=context.token,
    )
    if left:
        raise UndoError(f"{len(left)} of its parts could not be undone, see above")
