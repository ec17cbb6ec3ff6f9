# The least there is: an OMI made from another one, with one more package.

packer {
  required_plugins {
    osc-chroot = {
      source  = "github.com/outscale/osc-chroot"
      version = ">= 0.1.0"
    }
  }
}

variable "source_omi" {
  type        = string
  default     = "ami-12345678"
  description = "An OMI of a Debian or Ubuntu that this account may use."
}

source "osc-chroot" "web" {
  source_omi = var.source_omi
  omi_name   = "web {{timestamp}}"
}

build {
  sources = ["source.osc-chroot.web"]

  provisioner "shell" {
    environment_vars = ["DEBIAN_FRONTEND=noninteractive"]
    inline           = ["apt-get update -q", "apt-get install -q -y nginx"]
  }
}
