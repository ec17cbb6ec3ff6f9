# A Debian that an Ansible playbook provisions in the chroot, without SSH. The VM needs
# ansible-playbook and the collection community.general, which has the connection chroot: PyPI's
# package ansible brings both.

packer {
  required_plugins {
    osc-chroot = {
      source  = "github.com/outscale/osc-chroot"
      version = ">= 0.1.0"
    }
    ansible = {
      source  = "github.com/hashicorp/ansible"
      version = ">= 1.0.3"
    }
  }
}

variable "source_omi" {
  type = string
}

variable "proxy" {
  type        = string
  default     = ""
  description = "The HTTP proxy of this machine's apt, if it has one."
}

source "osc-chroot" "debian" {
  source_omi = var.source_omi
  omi_name   = "ansible {{timestamp}}"
}

build {
  sources = ["source.osc-chroot.debian"]

  # The connection chroot takes a host's address for the path of its root: where the volume is
  # mounted. The provisioner's own inventory would lead to an SSH server of Packer's.
  provisioner "ansible" {
    playbook_file           = "${path.root}/ansible/playbook.yml"
    inventory_file_template = "{{ .HostAlias }} ansible_host=${build.MountPath}\n"
    extra_arguments = [
      "--connection=chroot",
      "--extra-vars", "proxy='${var.proxy}' source_omi=${build.SourceOMI}",
    ]
  }
}
