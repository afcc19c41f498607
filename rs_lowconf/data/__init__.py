"""Labelled Sentinel-2 tiles: reading, checking and augmenting them."""
