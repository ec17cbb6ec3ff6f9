"""From a linked disk to provisioners that have run: partition, mounts, files, commands, the hook."""

from collections.abc import Mapping

from packer_plugin_osc_chroot.cancel import CancelToken
from packer_plugin_osc_chroot.context import Communicator, Context
from packer_plugin_osc_chroot.errors import BuildError, Cancelled, CommandError
from packer_plugin_osc_chroot.host.chroot import Chroot
from packer_plugin_osc_chroot.host.commands import Host
from packer_plugin_osc_chroot.host.copy_files import copied_files
from packer_plugin_osc_chroot.host.disk import Disk, partition_path
from packer_plugin_osc_chroot.host.mounts import extra_mounts
from packer_plugin_osc_chroot.host.partitions import (
    digit_warning,
    find_partition,
    mounted_partition,
    partition_table,
    settle_partitions,
)
from packer_plugin_osc_chroot.host.transfer import open_rootfs
from packer_plugin_osc_chroot.journal.journal import Journal
from packer_plugin_osc_chroot.phases import Phases
from packer_plugin_osc_chroot.plan import (
    Late,
    plan_extra_mounts,
    plan_hook_data,
    plan_mount_path,
)
from packer_plugin_osc_chroot.ui import Ui


def provision(
    context: Context,
    phases: Phases,
    host: Host,
    late: Late,
    disk: Disk,
    journal: Journal,
    *,
    volume_id: str,
) -> Mapping[str, str]:
    """Returns the data that provisioners saw; what it enters is left by the caller."""
    config, ui, token = context.config, context.ui, context.token
    if config.pre_mount_commands:
        expected = partition_path(disk.path, config.partition_number)
        commands = [
            late.text(
                "pre_mount_commands",
                command,
                Device=str(disk.path),
                PartitionDevice=str(expected),
            )
            for command in config.pre_mount_commands
        ]
        _warn_of_digits("pre_mount_commands", commands, disk, ui)
        phases.do("pre_mount_commands", lambda: _run_on_disk(host, commands, disk, token, ui))

    partition = phases.do(
        "find partition",
        lambda: find_partition(disk, config.partition_number, host=host, token=token),
    )
    mount_path = plan_mount_path(config, late, disk.name)
    ui.say(f"Mounting {partition} at {mount_path}...")
    journal.mounting(mount_path, str(partition.path))
    root = phases.enter(
        "mount",
        lambda: mounted_partition(
            host,
            partition,
            mount_path,
            options=config.mount_options,
            token=token,
            ui=ui,
        ),
        describe=lambda root: f"mount {root}",
    )
    if config.post_mount_commands:
        after = [
            late.text(
                "post_mount_commands",
                command,
                Device=str(disk.path),
                PartitionDevice=str(partition),
                MountPath=mount_path,
            )
            for command in config.post_mount_commands
        ]
        _warn_of_digits("post_mount_commands", after, disk, ui)
        option = "post_mount_commands"
        phases.do(option, lambda: _run(host, after, option=option, token=token, ui=ui))

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
    data = plan_hook_data(
        late,
        volume_id=volume_id,
        disk=disk,
        partition=partition.path,
        mount_path=mount_path,
        environ=context.environ,
    )
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


def _warn_of_digits(option: str, commands: list[str], disk: Disk, ui: Ui) -> None:
    for command in commands:
        if warning := digit_warning(option, command, disk):
            ui.message(warning)


def _run_on_disk(host: Host, commands: list[str], disk: Disk, token: CancelToken, ui: Ui) -> None:
    """One command may make the partitions that the next one formats."""
    table = partition_table(disk, host=host, token=token)
    for command in commands:
        _run(host, [command], option="pre_mount_commands", token=token, ui=ui)
        table = settle_partitions(disk, table, host=host, token=token)


def _run(host: Host, commands: list[str], *, option: str, token: CancelToken, ui: Ui) -> None:
    for command in commands:
        ui.say(f"Running on this VM: {command}")
        try:
            host.shell(command, token=token, on_line=ui.message)
        except CommandError as error:
            error.message = f"{option}: {error.message}"
            raise
