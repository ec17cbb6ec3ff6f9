# What `make demo` builds: a Debian with one more package and a file of ours.

variable "source_omi" {
  type = string
}

variable "output" {
  type        = string
  description = "A directory of this machine for what the build leaves beside the OMI."
}

variable "proxy" {
  type        = string
  default     = ""
  description = "The HTTP proxy of this machine's apt, if it has one."
}

source "osc-chroot" "debian" {
  source_omi      = var.source_omi
  omi_name        = "demo {{timestamp}}"
  omi_description = "Made from {{.SourceOMI}} by make demo"
  tags = {
    Origin = "{{.SourceOMI}}"
  }
}

build {
  sources = ["source.osc-chroot.debian"]

  provisioner "shell" {
    environment_vars = ["DEBIAN_FRONTEND=noninteractive", "http_proxy=${var.proxy}"]
    inline = [
      "apt-get update -q",
      "apt-get install -q -y --no-install-recommends hello",
      "hello",
      "dpkg-query --show >/root/packages.txt",
    ]
  }

  provisioner "file" {
    source      = "${path.root}/motd"
    destination = "/etc/motd"
  }

  provisioner "file" {
    direction   = "download"
    source      = "/root/packages.txt"
    destination = "${var.output}/packages.txt"
  }
}
