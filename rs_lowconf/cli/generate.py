"""`rslow generate`."""
