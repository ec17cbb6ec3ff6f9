# From the newest Debian of an account, shared with another one, in place of the OMI of that name.

packer {
  required_plugins {
    osc-chroot = {
      source  = "github.com/outscale/osc-chroot"
      version = ">= 0.1.0"
    }
  }
}

source "osc-chroot" "web" {
  source_omi_filter {
    filters = {
      "image-name"          = "Debian-12-*"
      "virtualization-type" = "hvm"
    }
    owners      = ["Outscale"]
    most_recent = true
  }

  omi_name              = "web"
  force_deregister      = true
  force_delete_snapshot = true
  omi_account_ids       = ["123456789012"]
  root_volume_size      = 20

  tags = {
    Source = "{{.SourceOMIName}} ({{.SourceOMI}})"
  }
}

build {
  sources = ["source.osc-chroot.web"]

  provisioner "shell" {
    environment_vars = ["DEBIAN_FRONTEND=noninteractive"]
    inline           = ["apt-get update -q", "apt-get install -q -y nginx"]
  }
}
