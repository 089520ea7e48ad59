"""fsck and scrub: is everything that a store reaches still what was stored?

findings.py  what was found, as values and as JSON
view.py      a store opened for reading alone, beside its daemon or without one
pages.py     stored nodes, a damaged one taken for empty and remembered
touched.py   which paths, branches, snapshots and byte ranges damaged objects hold
chunks.py    packs and index against each other
verify.py    all of it in one pass

Nothing here writes to the store; docs/fsck.md has goals and limits. Must not know: sockets, the command line.
"""
