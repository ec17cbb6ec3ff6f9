# Run by a normal user whom sudo asks nothing: mounts, copies and commands of the chroot go through it.

packer {
  required_plugins {
    osc-chroot = {
      source  = "github.com/outscale/osc-chroot"
      version = ">= 0.1.0"
    }
  }
}

variable "source_omi" {
  type    = string
  default = "ami-12345678"
}

source "osc-chroot" "web" {
  source_omi      = var.source_omi
  omi_name        = "web {{timestamp}}"
  command_wrapper = "sudo {{.Command}}"
}

build {
  sources = ["source.osc-chroot.web"]

  provisioner "shell" {
    inline = ["id -un >/etc/built-by"]
  }

  # What is downloaded belongs to the user.
  provisioner "file" {
    direction   = "download"
    source      = "/etc/built-by"
    destination = "built-by"
  }
}
