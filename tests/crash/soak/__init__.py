"""A soak that kills the server of a store at every moment and compares what was acknowledged.

model.py      what a store should hold: branches, snapshots, trees; applies acknowledged operations
dice.py       random operations that suit a model
journal.py    memory shared with the server: which operation got which log position
server.py     the process that is killed: opens a store, carries out operations
workers.py    its worker processes, forked instead of spawned
seams.py      labelled steps at which a server or a worker kills itself
dump.py       everything that a store shows, for the comparison
client.py     the soak's end of a server
cycles.py     one life of a server after another
program.py    a program on a mount; mounted.py  daemons that are killed, with real programs
compare.py    what is shown against the model
powercut.py   power cuts, on a filesystem that loses what was not synced; faults.py  disks that fail
__main__.py   the command

docs/testing-crashes.md says how to run it and how to replay a failure.
"""
