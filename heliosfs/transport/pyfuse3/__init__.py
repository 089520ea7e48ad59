"""The portable transport: libfuse's session through the pyfuse3 binding, on trio."""
