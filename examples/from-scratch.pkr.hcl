# A Debian 12 made from an empty volume: partitioned, filled by debootstrap, made bootable in the
# chroot. No source OMI is needed. The VM that this runs on needs debootstrap, sfdisk and mkfs.ext4.

packer {
  required_plugins {
    osc-chroot = {
      source  = "github.com/outscale/osc-chroot"
      version = ">= 0.1.0"
    }
  }
}

variable "mirror" {
  type        = string
  default     = ""
  description = "Where Debian's packages come from; debootstrap has a default of its own."
}

variable "packages" {
  type        = list(string)
  default     = ["cloud-init", "openssh-server"]
  description = "What the OMI has beside the base system; cloud-init gets users' keys from the metadata."
}

variable "proxy" {
  type        = string
  default     = ""
  description = "The HTTP proxy of this machine's apt, if it has one."
}

source "osc-chroot" "debian" {
  omi_name                = "debian-12 {{timestamp}}"
  from_scratch            = true
  omi_virtualization_type = "hvm"
  root_volume_size        = 2
  root_device_name        = "/dev/sda1"
  omi_block_device_mappings {
    device_name           = "/dev/sda1"
    volume_type           = "gp2"
    delete_on_vm_deletion = true
  }

  # The volume has no partition table yet. PartitionDevice is what partition 1 will be called, which
  # differs between kinds of disk: /dev/sda1, /dev/nvme1n1p1.
  pre_mount_commands = [
    "echo 'start=1MiB, type=83, bootable' | sfdisk --quiet --label dos {{.Device}}",
    "mkfs.ext4 -q -L root {{.PartitionDevice}}",
  ]

  # The new root is mounted and empty: what fills it runs on this VM. chroot_mounts come after it,
  # and need the folders that debootstrap makes. It also copies /etc/resolv.conf, for apt-get below.
  post_mount_commands = [
    "http_proxy='${var.proxy}' debootstrap --variant=minbase --include=systemd-sysv,udev bookworm '{{.MountPath}}' ${var.mirror} >/dev/null",
  ]
}

build {
  sources = ["source.osc-chroot.debian"]

  # From here on there is a system to run commands in. No service is to start while its package is
  # installed: it would keep the volume busy.
  provisioner "shell" {
    environment_vars = [
      "DEBIAN_FRONTEND=noninteractive",
      "PACKAGES=${join(" ", var.packages)}",
      "http_proxy=${var.proxy}",
    ]
    inline = [
      "printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d",
      "chmod +x /usr/sbin/policy-rc.d",
      "apt-get update -q",
      "apt-get install -q -y --no-install-recommends linux-image-cloud-amd64 grub-pc-bin grub2-common ifupdown isc-dhcp-client $PACKAGES",
      "apt-get clean",
      "rm -r /usr/sbin/policy-rc.d /var/lib/apt/lists/*",
    ]
  }

  # The root by its label, since the disk has another name on every VM, and the network interface by
  # the kernel's name. The serial console is the one that ReadConsoleOutput shows.
  provisioner "shell" {
    environment_vars = ["DEVICE=${build.Device}"]
    inline = [
      "echo 'LABEL=root / ext4 defaults 0 1' >/etc/fstab",
      "echo debian >/etc/hostname",
      "printf 'auto lo eth0\\niface lo inet loopback\\niface eth0 inet dhcp\\n' >/etc/network/interfaces",
      "echo 'GRUB_CMDLINE_LINUX=\"root=LABEL=root net.ifnames=0 console=tty0 console=ttyS0,115200\"' >>/etc/default/grub",
      "echo 'GRUB_TIMEOUT=0' >>/etc/default/grub",
      "grub-install --target=i386-pc \"$DEVICE\"",
      "update-grub",
      # Each VM is to make its own.
      "truncate --size=0 /etc/machine-id",
    ]
  }
}
