# Two OMIs from one source OMI, at once; or one, with -only. Each has its own name as the host's.

source "osc-chroot" "one" {
  source_omi = "ami-00000012"
  omi_name   = "one"
}

source "osc-chroot" "two" {
  source_omi = "ami-00000012"
  omi_name   = "two"
}

source "osc-chroot" "nvme" {
  source_omi = "ami-00000012"
  omi_name   = "nvme"
}

build {
  sources = ["source.osc-chroot.one", "source.osc-chroot.two", "source.osc-chroot.nvme"]

  provisioner "shell" {
    inline = [
      "echo $PACKER_BUILD_NAME >/etc/hostname",
      "dpkg-query --show >/root/packages",
    ]
  }
}
