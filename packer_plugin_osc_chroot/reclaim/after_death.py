"""What a service does whose predecessor died amid a build: it undoes what that had made."""

from packer_plugin_osc_chroot.build import Context, open_cloud
from packer_plugin_osc_chroot.errors import UndoError
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.journal.directory import state_directory
from packer_plugin_osc_chroot.journal.journal import Journal
from packer_plugin_osc_chroot.plan import plan_wrapper
from packer_plugin_osc_chroot.reclaim.next_build import undo_dead_builds


def undo_after_death(context: Context) -> None:
    """Raises UndoError where something is left, BuildError where nothing could be tried."""
    journal = Journal(state_directory(context.environ))
    cloud, identity = open_cloud(context, journal)
    left = undo_dead_builds(
        cloud,
        vm_id=identity.vm_id,
        host=Host(plan_wrapper(context.config, context.scope)),
        ui=context.ui,
        token=context.token,
    )
    if left:
        raise UndoError(f"{len(left)} of its parts could not be undone, see above")
