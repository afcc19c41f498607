"""`rslow data`."""
