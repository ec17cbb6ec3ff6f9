# An OMI from an empty volume: partitioned, formatted and filled by the build.

variable "suite" {
  type    = string
  default = "bookworm"
}

source "osc-chroot" "scratch" {
  omi_name                = "${var.suite} from scratch {{timestamp}}"
  omi_description         = "Made by debootstrap in {{.BuildRegion}}"
  omi_virtualization_type = "hvm"

  from_scratch     = true
  root_volume_size = 10
  root_device_name = "/dev/sda1"
  omi_block_device_mappings {
    device_name           = "/dev/sda1"
    volume_type           = "gp2"
    delete_on_vm_deletion = true
  }

  pre_mount_commands = [
    "parted --script {{.Device}} mklabel msdos mkpart primary ext4 1MiB 100% set 1 boot on",
    "udevadm settle",
    "mkfs.ext4 -q -L root {{.Device}}1",
  ]
  post_mount_commands = ["debootstrap ${var.suite} {{.MountPath}}"]
  # From scratch nothing is copied by default, but apt-get needs name servers.
  copy_files       = ["/etc/resolv.conf"]
  snapshot_timeout = "1h"

  tag {
    key   = "Suite"
    value = var.suite
  }
}

build {
  sources = ["source.osc-chroot.scratch"]

  # A kernel and a boot loader: a VM starts nothing without them.
  provisioner "shell" {
    environment_vars = ["DEBIAN_FRONTEND=noninteractive"]
    inline = [
      "echo 'LABEL=root / ext4 defaults 0 1' >/etc/fstab",
      "apt-get update -q",
      "apt-get install -q -y --no-install-recommends linux-image-cloud-amd64 grub-pc cloud-init",
      "grub-install ${build.Device}",
      "update-grub",
    ]
  }
}
