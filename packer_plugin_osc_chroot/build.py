"""The build, on one page: what is made, in which order, and what stands until when."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.access import find_access
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.cloud.tags import create_tags
from packer_plugin_osc_chroot.context import Context, Result
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.journal.dead import has_journals
from packer_plugin_osc_chroot.journal.directory import state_directory
from packer_plugin_osc_chroot.journal.journal import Journal
from packer_plugin_osc_chroot.look import Facts, check_host, look
from packer_plugin_osc_chroot.phases import Phases, Timing
from packer_plugin_osc_chroot.plan import (
    Late,
    late_data,
    plan_build,
    plan_wrapper,
)
from packer_plugin_osc_chroot.provision import provision
from packer_plugin_osc_chroot.reclaim.next_build import undo_dead_builds
from packer_plugin_osc_chroot.resources.former_image import (
    delete_former_snapshots,
    deregister_former,
)
from packer_plugin_osc_chroot.resources.image import register_image, wait_for_image
from packer_plugin_osc_chroot.resources.link import linked_volume
from packer_plugin_osc_chroot.resources.sharing import (
    Permissions,
    share_image,
    share_snapshot,
    taken_early,
)
from packer_plugin_osc_chroot.resources.snapshot import start_snapshot, wait_for_snapshot
from packer_plugin_osc_chroot.resources.source_volume import (
    SourceVolume,
    Timeouts,
    source_volume,
)
from packer_plugin_osc_chroot.timeline import timeline
from packer_plugin_osc_chroot.ui import Ui


def build(context: Context) -> Result:
    """Raises BuildError or Cancelled; then everything is undone, but what its notes name."""
    config, ui, token = context.config, context.ui, context.token
    packer = config.packer
    journal = Journal(state_directory(context.environ))
    with (
        ExitStack() as connections,
        timeline(context.environ, packer.build_name, config.omi_name, ui=ui) as timings,
        Phases(
            ui=ui,
            token=token,
            debug=packer.debug,
            on_error=packer.on_error,
            journal=journal,
            timings=timings,
        ) as phases,
    ):
        host = Host(plan_wrapper(config, context.scope), on_pid=journal.process, mark=journal.mark)
        cloud, facts = phases.do("look", lambda: _look(context, host, journal))
        connections.callback(cloud.close)
        if has_journals(journal.directory):
            phases.do(
                "undo dead builds",
                lambda: undo_dead_builds(
                    cloud, vm_id=facts.identity.vm_id, host=host, ui=ui, token=token
                ),
            )
        late = Late(context.scope, late_data(facts), context.ui.message)
        plan = plan_build(config, facts, late)

        volume_id = phases.enter(
            "create volume",
            lambda: source_volume(
                cloud,
                plan.volume,
                facts.foreign_source,
                carried=plan.image.snapshot_ids,
                timeouts=Timeouts(volume=config.volume_timeout, image=config.image_timeout),
                token=token,
                ui=ui,
            ),
            describe=SourceVolume.describe,
        ).volume_id
        created = phases.level()
        disk = phases.enter(
            "link volume",
            lambda: linked_volume(
                cloud,
                volume_id,
                vm_id=facts.identity.vm_id,
                device_path=config.device_path,
                nvme_device_path=config.nvme_device_path,
                size=plan.volume.size,
                is_empty=not plan.volume.snapshot_id,
                host=host,
                timeout=config.link_timeout,
                token=token,
                ui=ui,
            ),
            describe=lambda disk: f"link of volume {volume_id} ({disk.path})",
        )
        linked = phases.level()
        data = provision(context, phases, host, late, disk, journal, volume_id=volume_id)
        ui.say("Unmounting...")
        phases.leave("unmount", since=linked)

        snapshot_id = phases.do(
            "start snapshot",
            lambda: start_snapshot(
                cloud,
                volume_id,
                description=plan.snapshot_description,
                phases=phases,
                token=token,
                ui=ui,
            ),
        )
        phases.leave_beside("unlink volume", since=created)
        _tag(phases, cloud, snapshot_id, plan.snapshot_tags, what="snapshot", token=token)
        finish_sharing = _share(
            phases,
            "snapshot",
            plan.snapshot_permissions,
            lambda: share_snapshot(cloud, snapshot_id, plan.snapshot_permissions, token=token),
        )
        phases.do(
            "wait for snapshot",
            lambda: wait_for_snapshot(
                cloud, snapshot_id, timeout=config.snapshot_timeout, token=token, ui=ui
            ),
        )
        finish_sharing()
        # Not before: the API may refuse to delete a volume whose snapshot is not complete.
        phases.leave_beside("delete volume", since=0)
        former = _deregister_former(context, phases, cloud, facts)
        image_id = phases.do(
            "register OMI",
            lambda: register_image(
                cloud,
                plan.image,
                snapshot_id,
                account_id=facts.account_id,
                name_is_new=not former,
                phases=phases,
                token=token,
                ui=ui,
            ),
        )
        _tag(phases, cloud, image_id, plan.tags, what="OMI", token=token)
        finish_sharing = _share(
            phases,
            "OMI",
            plan.image_permissions,
            lambda: share_image(cloud, image_id, plan.image_permissions, token=token),
        )
        phases.do(
            "wait for OMI",
            lambda: wait_for_image(
                cloud, image_id, timeout=config.image_timeout, token=token, ui=ui
            ),
        )
        finish_sharing()
        phases.join()
        # As late as can be: a build that is cancelled or killed before it could say that it is done
        # has no OMI.
        token.check()
        journal.keep(snapshot_id, image_id)
        phases.keep()
        if config.force_delete_snapshot:
            in_use = (snapshot_id, *plan.image.snapshot_ids)
            delete_former_snapshots(
                cloud, former, account_id=facts.account_id, in_use=in_use, token=token, ui=ui
            )
    _show_times(ui, phases.timings)
    return Result(
        region=cloud.region,
        image_id=image_id,
        image_name=plan.image.name,
        snapshot_ids=(snapshot_id,),
        source_image_id=facts.source.image_id if facts.source else "",
        data=data,
        cloud=cloud,
    )


def _tag(
    phases: Phases,
    cloud: Cloud,
    resource_id: str,
    tags: Mapping[str, str],
    *,
    what: str,
    token: CancelToken,
) -> None:
    if tags:
        phases.do(f"tag {what}", lambda: create_tags(cloud, [resource_id], tags, token=token))


def _share(
    phases: Phases, what: str, permissions: Permissions, change: Callable[[], None]
) -> Callable[[], None]:
    """Give the permissions now if the API takes them; what is returned does it after the wait else."""
    if not permissions:
        return lambda: None
    name = f"share {what}"
    if phases.do(name, lambda: taken_early(change)):
        return lambda: None
    return lambda: phases.do(name, change)


def _deregister_former(
    context: Context, phases: Phases, cloud: Cloud, facts: Facts
) -> list[Mapping[str, Any]]:
    """What had the new OMI's name until now, where it is to be replaced."""
    if not context.config.replaces:
        return []
    return phases.do(
        "deregister former OMI",
        lambda: deregister_former(
            cloud,
            context.config.omi_name,
            account_id=facts.account_id,
            phases=phases,
            token=context.token,
            ui=context.ui,
        ),
    )


def _look(context: Context, host: Host, journal: Journal) -> tuple[Cloud, Facts]:
    config, ui = context.config, context.ui
    ui.say("Looking at this VM, the account and the source OMI...")
    check_host(config, is_wrapped=host.wrap is not None)
    access = find_access(
        config, context.environ, redact=context.redact, journal=journal, token=context.token, ui=ui
    )
    cloud, identity = access.cloud, access.identity
    ui.message(f"VM: {identity.vm_id} in {identity.subregion or cloud.region}")
    # Another endpoint has Regions of its own.
    check_region = not cloud.is_custom and not config.skip_region_validation
    facts = look(cloud, config, identity, check_region=check_region, token=context.token, ui=ui)
    try:
        journal.begin(
            vm_id=identity.vm_id,
            region=cloud.region,
            endpoint=cloud.endpoint,
            account_id=facts.account_id,
            omi_name=config.omi_name,
        )
    except OSError as error:
        ui.message(
            f"warning: no journal in {journal.directory}: {error.strerror}. If this build were killed"
            " outright, nothing would know what it left"
        )
    return cloud, facts


def _show_times(ui: Ui, timings: list[Timing]) -> None:
    """The phases that took at least a twentieth of a second, and the sum of all.

    For `packer -machine-readable` all of them, as `osc-chroot-time,PHASE,SECONDS`; `beside` follows
    where it is in no sum.
    """
    for timing in timings:
        fields = [timing.name, f"{timing.seconds:.3f}", *(["beside"] if timing.beside else [])]
        ui.machine("osc-chroot-time", *fields)
    ui.say("Where the time went:")
    shown = [timing for timing in timings if timing.seconds >= 0.05]
    width = max(len(timing.name) for timing in timings)
    for timing in shown:
        beside = "  (beside the others)" if timing.beside else ""
        ui.message(f"{timing.name:<{width}} {timing.seconds:7.1f} s{beside}")
    whole = sum(timing.seconds for timing in timings if not timing.beside)
    ui.message(f"{'all':<{width}} {whole:7.1f} s")
