"""The command line: words in, words or one JSON object out. It holds no rule of the filesystem.

A verb that talks to a running daemon imports neither trio nor the storage stack.
"""
