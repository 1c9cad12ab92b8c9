"""From the logger to the store: the spool, the thread that delivers it, and what is left of it."""
