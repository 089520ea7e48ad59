"""Chunks by content: named by BLAKE3, cut, compressed, packed, indexed, cached and verified.

The package knows nothing about files, trees or FUSE and imports nothing of heliosfs.
"""
