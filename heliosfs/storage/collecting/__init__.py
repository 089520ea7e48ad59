"""Garbage collection of a store: pages, index records and packs that nothing reaches.

claims.py      what running work counts on: the barrier between workers and a collection
reads.py       reads under way, and waiting for those that began before something
marking.py     what is reached from refs, the log, live trees and running work
sweeping.py    records that are not reached go, in small batches
packing.py     packs: which are dead, which are rewritten, and how
collector.py   one collection from begin to end, and its report
automatic.py   when to collect without being asked
docs/gc.md tells why it is safe.
"""
