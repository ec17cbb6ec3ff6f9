"""What a build does for the dead ones of its VM before it makes anything itself."""

import logging
import time

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.journal.dead import dead_journals
from packer_plugin_osc_chroot.journal.story import Story
from packer_plugin_osc_chroot.reclaim.sockets import remove_dead_sockets
from packer_plugin_osc_chroot.reclaim.undo import undo_story
from packer_plugin_osc_chroot.ui import Ui, printable

log = logging.getLogger(__name__)

RECLAIM = "packer-plugin-osc-chroot reclaim"


def undo_dead_builds(
    cloud: Cloud, *, vm_id: str, host: Host, ui: Ui, token: CancelToken
) -> list[str]:
    """Undo what builds left that were killed on this VM; what is left of them, as lines.

    What cannot be undone does not stop anybody: it has been shown, and is tried again by the next
    build. What -on-error=abort kept is not touched. Raises BuildError where the directory of
    journals is not this user's alone, Cancelled.
    """
    left: list[str] = []
    if cloud.journal.directory is None:
        return left
    remove_dead_sockets()
    for journal in dead_journals(cloud.journal.directory):
        token.check()
        story = journal.story
        if story.end == "kept":
            log.info("%s is what -on-error kept", journal.path)
            continue
        if _place(story) != (vm_id, cloud.region, cloud.endpoint):
            ui.message(
                f"{title(story)} left something in Region {story.about.region} on VM"
                f" {story.about.vm_id}: {RECLAIM} tells more"
            )
            continue
        ui.say(f"Undoing what {title(story)} left...")
        failures = undo_story(story, cloud, host=host, ui=ui, token=token)
        if failures:
            journal.failed()
            left += [str(failure) for failure in failures]
        else:
            journal.remove()
    token.check()
    return left


def title(story: Story) -> str:
    """The build, as people know it."""
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(story.about.at))
    return f'the build of "{printable(story.about.omi_name)}" of {at}'


def _place(story: Story) -> tuple[str, str, str]:
    return story.about.vm_id, story.about.region, story.about.endpoint
