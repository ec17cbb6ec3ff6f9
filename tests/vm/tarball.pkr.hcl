# An OMI from nothing, filled from a tarball that holds a Debian with its kernel and boot loader.

variable "tarball" {
  type = string
}

source "osc-chroot" "tarball" {
  omi_name                = "from-tarball"
  from_scratch            = true
  omi_virtualization_type = "hvm"
  root_volume_size        = 2
  root_device_name        = "/dev/sda1"
  omi_block_device_mappings {
    device_name           = "/dev/sda1"
    volume_type           = "gp2"
    delete_on_vm_deletion = true
  }

  pre_mount_commands = [
    "echo 'start=1MiB, type=83, bootable' | sfdisk --quiet --label dos {{.Device}}",
    "mkfs.ext4 -q -L root {{.PartitionDevice}}",
  ]
  post_mount_commands = ["tar --zstd -xpf ${var.tarball} -C {{.MountPath}}"]
}

build {
  sources = ["source.osc-chroot.tarball"]

  provisioner "shell" {
    environment_vars = ["DEVICE=${build.Device}"]
    inline = [
      "echo from-tarball >/etc/hostname",
      "grub-install --target=i386-pc \"$DEVICE\"",
      "update-grub",
    ]
  }
}
