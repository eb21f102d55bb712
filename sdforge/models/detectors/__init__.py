"""Detectors: networks that say where in a picture faces, hands or persons are.

A detector is a file; what it finds are detections, each a box with a score, some with a mask.
"""
