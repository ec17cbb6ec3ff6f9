integration {
  name = "OUTSCALE chroot"
  description = "Make OUTSCALE machine images in a chroot, without starting a VM."
  identifier = "packer/outscale/osc-chroot"
  docs {
    process_docs = true
    readme_location = "./README.md"
    external_url = "https://github.com/outscale/packer-plugin-osc-chroot"
  }
  license {
    type = "MPL-2.0"
    url = "https://github.com/outscale/packer-plugin-osc-chroot/blob/main/LICENSE"
  }
  component {
    type = "builder"
    name = "osc-chroot"
    slug = "osc-chroot"
  }
  component {
    type = "data-source"
    name = "osc-chroot-omi"
    slug = "omi"
  }
  component {
    type = "data-source"
    name = "osc-chroot-identity"
    slug = "identity"
  }
}
