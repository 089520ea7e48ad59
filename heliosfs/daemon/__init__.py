"""The process that serves a store: started by `spawn`, run by `run`, talked to through `rpc`."""
