"""Figures as values, and as SVG that a page can make live."""
