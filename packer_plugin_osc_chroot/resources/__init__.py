"""What a build makes in the cloud, each with its undoing: volume, link, snapshot, image."""
