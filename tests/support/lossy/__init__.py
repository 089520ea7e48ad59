"""A filesystem that loses what was not synced, and that fails on command. For stores under test only.

images.py      files and directories: what is in memory, what is on the disk, what is on its way
faults.py      rules: which operation on which file fails, is short, is slow, or is the last one
filesystem.py  the same as a FUSE filesystem (pyfuse3)
control.py     commands over a socket
mounted.py     the other side: starts it, talks to it, unmounts it

A mount holds one *epoch* at a time: the directory `e1`, after a power cut `e2`, and so on. What was in `e1`
is gone from that moment: every operation on it fails, as if the machine were off.
"""
