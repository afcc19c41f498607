"""Packages that people review in QGIS: GeoTIFFs, a contact sheet, a layer of decisions.

Nothing is imported here: reading a package needs neither torch nor GDAL.
"""
