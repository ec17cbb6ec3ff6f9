"""The gRPC side of the contract: the process, its services, the stream to Packer."""
