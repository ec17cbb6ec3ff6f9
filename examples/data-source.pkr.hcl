# From OUTSCALE's newest Debian, found by a data source, so that the OMI's name can say which one it is;
# tagged with the account that built it.

packer {
  required_plugins {
    osc-chroot = {
      source  = "github.com/outscale/osc-chroot"
      version = ">= 0.1.0"
    }
  }
}

data "osc-chroot-omi" "debian" {
  filters = {
    image-name   = "Debian-12-*"
    architecture = "x86_64"
  }
  owners      = ["Outscale"]
  most_recent = true
}

data "osc-chroot-identity" "builder" {}

source "osc-chroot" "base" {
  source_omi = data.osc-chroot-omi.debian.id
  omi_name   = "base on ${data.osc-chroot-omi.debian.name}"

  tags = {
    built-by    = data.osc-chroot-identity.builder.account_id
    source      = data.osc-chroot-omi.debian.id
    source-date = data.osc-chroot-omi.debian.creation_date
  }
}

build {
  sources = ["source.osc-chroot.base"]

  provisioner "shell" {
    inline = ["echo '${data.osc-chroot-omi.debian.name}' >/etc/built-from"]
  }
}
