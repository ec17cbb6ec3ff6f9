# Three OMIs at once, all from the same source: what they share is said once, what differs with each.
# -only='osc-chroot.web' makes one of them, -parallel-builds=2 two at a time.

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

source "osc-chroot" "base" {
  source_omi = var.source_omi
  tags = {
    Source = "{{.SourceOMI}}"
  }
}

build {
  source "osc-chroot.base" {
    name     = "web"
    omi_name = "web {{timestamp}}"
  }

  source "osc-chroot.base" {
    name             = "queue"
    omi_name         = "queue {{timestamp}}"
    root_volume_size = 20
  }

  source "osc-chroot.base" {
    name     = "batch"
    omi_name = "batch {{timestamp}}"
  }

  # In all of them.
  provisioner "shell" {
    inline = ["echo '${source.name}' >/etc/role"]
  }

  provisioner "shell" {
    only             = ["osc-chroot.web"]
    environment_vars = ["DEBIAN_FRONTEND=noninteractive"]
    inline           = ["apt-get update -q", "apt-get install -q -y nginx"]
  }

  # Which OMI is which, for what comes after the build.
  post-processor "manifest" {
    output = "manifest.json"
    custom_data = {
      role = source.name
    }
  }
}
