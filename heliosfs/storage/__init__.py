"""Where state lives: the log, chunks, pages, refs, and the work that moves data between them."""
