"""The build, on one page: what is made, in which order, and what stands until when."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Protocol

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.cloud.client import Cloud
from packer_plugin_osc_chroot.cloud.credentials import find_credentials
from packer_plugin_osc_chroot.cloud.metadata import read_identity
from packer_plugin_osc_chroot.cloud.private_files import private_directory
from packer_plugin_osc_chroot.cloud.tags import create_tags
from packer_plugin_osc_chroot.errors import BuildError, Cancelled
from packer_plugin_osc_chroot.host.chroot import Chroot
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.copy_files import copied_files
from packer_plugin_osc_chroot.host.disk import Disk, find_partition
from packer_plugin_osc_chroot.host.mounts import extra_mounts, mounted_root
from packer_plugin_osc_chroot.host.transfer import RootFs, open_rootfs
from packer_plugin_osc_chroot.look import Facts, check_host, look
from packer_plugin_osc_chroot.options.config import Config
from packer_plugin_osc_chroot.phases import Phases, Timing
from packer_plugin_osc_chroot.plan import (
    Late,
    late_data,
    plan_build,
    plan_extra_mounts,
    plan_hook_data,
    plan_mount_path,
    plan_wrapper,
)
from packer_plugin_osc_chroot.redaction import Redactor
from packer_plugin_osc_chroot.resources.image import register_image, wait_for_image
from packer_plugin_osc_chroot.resources.link import linked_volume
from packer_plugin_osc_chroot.resources.snapshot import start_snapshot, wait_for_snapshot
from packer_plugin_osc_chroot.resources.volume import created_volume
from packer_plugin_osc_chroot.template.engine import Scope
from packer_plugin_osc_chroot.timeline import timeline
from packer_plugin_osc_chroot.ui import Ui

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Communicator:
    """The inside of the chroot, as provisioners reach it."""

    chroot: Chroot
    files: RootFs


class Provisioners(Protocol):
    """Packer's provisioners: Go objects at the other end of the stream."""

    def run(self, communicator: Communicator, data: Mapping[str, str]) -> None:
        """Run them all. Raises BuildError, Cancelled."""

    def clean_up(self, communicator: Communicator, data: Mapping[str, str]) -> None:
        """Run the error-cleanup-provisioner, if there is one."""


@dataclasses.dataclass(frozen=True)
class Context:
    """What a build is given; opened once."""

    config: Config
    scope: Scope
    ui: Ui
    token: CancelToken
    provisioners: Provisioners
    environ: Mapping[str, str]
    redact: Redactor


@dataclasses.dataclass(frozen=True)
class Result:
    """What a build leaves: the image and its snapshots, and what templates know of it."""

    region: str
    image_id: str
    snapshot_ids: tuple[str, ...]
    source_image_id: str
    data: Mapping[str, str]
    cloud: Cloud


def build(context: Context) -> Result:
    """Raises BuildError or Cancelled; then everything is undone, but what its notes name."""
    config, ui, token = context.config, context.ui, context.token
    packer = config.packer
    with (
        timeline(context.environ, packer.build_name, ui=ui) as timings,
        Phases(
            ui=ui, token=token, debug=packer.debug, on_error=packer.on_error, timings=timings
        ) as phases,
    ):
        host = Host(plan_wrapper(config, context.scope))
        cloud, facts = phases.do("look", lambda: _look(context, host))
        late = Late(context.scope, late_data(facts))
        plan = plan_build(config, facts, late)

        volume_id = phases.enter(
            "create volume",
            lambda: created_volume(cloud, plan.volume, token=token, ui=ui),
            describe=lambda volume_id: f"volume {volume_id}",
        )
        created = phases.level()
        disk = phases.enter(
            "link volume",
            lambda: linked_volume(
                cloud,
                volume_id,
                vm_id=facts.identity.vm_id,
                device_path=config.device_path,
                size=plan.volume.size,
                host=host,
                token=token,
                ui=ui,
            ),
            describe=lambda disk: f"link of volume {volume_id} ({disk.path})",
        )
        linked = phases.level()
        data = _provision(context, phases, host, late, facts, disk)
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
        phases.do(
            "wait for snapshot",
            lambda: wait_for_snapshot(cloud, snapshot_id, token=token, ui=ui),
        )
        # Not before: the API may refuse to delete a volume whose snapshot is not complete.
        phases.leave_beside("delete volume", since=0)
        image_id = phases.do(
            "register OMI",
            lambda: register_image(
                cloud,
                plan.image,
                snapshot_id,
                account_id=facts.account_id,
                phases=phases,
                token=token,
                ui=ui,
            ),
        )
        _tag(phases, cloud, image_id, plan.tags, what="OMI", token=token)
        phases.do("wait for OMI", lambda: wait_for_image(cloud, image_id, token=token, ui=ui))
        phases.keep()
        phases.join()
    _show_times(ui, phases.timings)
    return Result(
        region=cloud.region,
        image_id=image_id,
        snapshot_ids=(snapshot_id,),
        source_image_id=facts.source.image_id,
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


def _look(context: Context, host: Host) -> tuple[Cloud, Facts]:
    config, ui = context.config, context.ui
    ui.say("Looking at this VM, the account and the source OMI...")
    check_host(config, is_wrapped=host.wrap is not None)
    identity = read_identity(context.environ, token=context.token)
    credentials = find_credentials(config, context.environ)
    context.redact.add((credentials.secret_key, credentials.access_key))
    region = credentials.region or identity.region
    ui.message(f"VM: {identity.vm_id} in {identity.subregion}")
    cloud = Cloud(credentials, region=region, shared=private_directory(context.environ))
    return cloud, look(cloud, config, identity, token=context.token, ui=ui)


def _provision(
    context: Context, phases: Phases, host: Host, late: Late, facts: Facts, disk: Disk
) -> Mapping[str, str]:
    """From the linked disk to provisioners that have run; what it enters is left by the caller."""
    config, ui, token = context.config, context.ui, context.token
    if config.pre_mount_commands:
        commands = [
            late.text("pre_mount_commands", command, Device=str(disk.path))
            for command in config.pre_mount_commands
        ]
        phases.do("pre_mount_commands", lambda: _run(host, commands, token=token, ui=ui))

    partition = phases.do(
        "find partition",
        lambda: find_partition(disk, int(config.mount_partition), host=host, token=token),
    )
    mount_path = plan_mount_path(config, late, disk)
    ui.say(f"Mounting {partition} at {mount_path}...")
    root = phases.enter(
        "mount",
        lambda: mounted_root(
            host,
            str(partition),
            mount_path,
            options=config.mount_options,
            token=token,
            ui=ui,
        ),
        describe=lambda root: f"mount {root}",
    )
    if config.post_mount_commands:
        after = [
            late.text("post_mount_commands", command, Device=str(disk.path), MountPath=mount_path)
            for command in config.post_mount_commands
        ]
        phases.do("post_mount_commands", lambda: _run(host, after, token=token, ui=ui))

    files = phases.enter(
        "files",
        lambda: open_rootfs(host, root, on_warning=ui.message),
        describe=lambda _: "",
    )
    phases.enter(
        "chroot_mounts",
        lambda: extra_mounts(host, root, files, plan_extra_mounts(config), token=token, ui=ui),
        describe=lambda _: f"mounts below {root}",
    )
    if config.files:
        phases.enter(
            "copy_files",
            lambda: copied_files(files, config.files, host=host, root=root, token=token, ui=ui),
            describe=lambda _: f"copies in {root}: {', '.join(config.files)}",
        )
    data = plan_hook_data(facts, disk=disk, mount_path=mount_path, environ=context.environ)
    communicator = Communicator(Chroot(host, root), files)
    phases.do("provision", lambda: _run_provisioners(context, communicator, data))
    return data


def _run_provisioners(
    context: Context, communicator: Communicator, data: Mapping[str, str]
) -> None:
    context.ui.say("Running the provisioners in the chroot...")
    try:
        context.provisioners.run(communicator, data)
    except Cancelled:
        # Packer ends a cleanup hook at once after a cancel: there is no use in asking.
        raise
    except BuildError:
        if context.config.packer.on_error != "abort":
            context.provisioners.clean_up(communicator, data)
        raise


def _run(host: Host, commands: list[str], *, token: CancelToken, ui: Ui) -> None:
    for command in commands:
        ui.say(f"Running on this VM: {command}")
        host.shell(command, token=token, on_line=ui.message)


def _show_times(ui: Ui, timings: list[Timing]) -> None:
    """The phases that took at least a twentieth of a second, and the sum of all."""
    ui.say("Where the time went:")
    shown = [timing for timing in timings if timing.seconds >= 0.05]
    width = max(len(timing.name) for timing in timings)
    for timing in shown:
        beside = "  (beside the others)" if timing.beside else ""
        ui.message(f"{timing.name:<{width}} {timing.seconds:7.1f} s{beside}")
    whole = sum(timing.seconds for timing in timings if not timing.beside)
    ui.message(f"{'all':<{width}} {whole:7.1f} s")
