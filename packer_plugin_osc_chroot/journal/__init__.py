"""What builds write down before they do it, so that a build that is killed can be undone by another."""
