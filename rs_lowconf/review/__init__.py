"""Packages that people judge in QGIS: GeoTIFFs, a contact sheet, a layer of decisions.

Nothing is imported here: what reads a package back needs neither torch nor GDAL.
"""
