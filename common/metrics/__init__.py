"""Measures segmentations and detectors."""
