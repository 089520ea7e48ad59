"""The `.helios` tree, the extended attributes and the one table of commands behind both."""
