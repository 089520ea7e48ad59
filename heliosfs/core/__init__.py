"""The rules of the filesystem: synchronous, no I/O, no event loop, time is an argument."""
