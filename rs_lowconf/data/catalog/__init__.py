"""Catalogs of tiles: GeoParquet, a row a window of some image, whatever it came from."""
