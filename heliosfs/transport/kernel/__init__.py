"""Our own session on the protocol of the kernel's FUSE, 7.31 to 7.45."""
