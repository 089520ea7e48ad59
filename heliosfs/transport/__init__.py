"""Requests in, replies out: the only place that knows FUSE. Must not know: the core's rules, the store."""
