"""Catalogs of tiles: GeoParquet with one row per window of an image, from any source."""
