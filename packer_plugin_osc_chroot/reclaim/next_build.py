"""What a build does for the dead ones of its VM before it makes anything itself."""

import logging
import time

from packer_plugin_osc_chroot.cancel import UNDO_SECONDS, CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.journal.dead import dead_journals
from packer_plugin_osc_chroot.journal.journal import RECLAIM, Journal
from packer_plugin_osc_chroot.journal.story import Story
from packer_plugin_osc_chroot.reclaim.sockets import remove_dead_sockets
from packer_plugin_osc_chroot.reclaim.undo import undo_journal
from packer_plugin_osc_chroot.ui import Ui, printable

log = logging.getLogger(__name__)

# What could not be undone before gets this long for each thing: builds must not wait for it in vain.
_AGAIN_SECONDS = 20.0


def undo_dead_builds(
    cloud: Cloud, *, vm_id: str, host: Host, ui: Ui, token: CancelToken
) -> list[str]:
    """Undo what builds left that were killed on this VM; what is left of them, as lines.

    What cannot be undone does not stop anybody: it has been shown, and is tried again by the next
    build. What -on-error=abort kept is not touched. Raises BuildError where the directory of
    journals is not this user's alone, Cancelled.
    """
    left: list[str] = []
    own = cloud.journal
    if own.directory is None:
        return left
    remove_dead_sockets()
    # What is undone is written down in the dead build's journal. In our own, a former OMI that has just
    # come back would be of our making, and go again if we were killed right then.
    cloud.journal = Journal()
    try:
        for journal in dead_journals(own.directory, tell=ui.message):
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
            seconds = _AGAIN_SECONDS if story.end == "failed" else UNDO_SECONDS
            failures = undo_journal(journal, cloud, host=host, ui=ui, token=token, seconds=seconds)
            token.check()
            left += [str(failure) for failure in failures]
    except OSError as error:
        ui.message(f"warning: journals in {own.directory}: {error.strerror}")
    finally:
        cloud.journal = own
    token.check()
    return left


def title(story: Story) -> str:
    """The build, as people know it."""
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(story.about.at))
    return f'the build of "{printable(story.about.omi_name)}" of {at}'


def _place(story: Story) -> tuple[str, str, str]:
    return story.about.vm_id, story.about.region, story.about.endpoint
