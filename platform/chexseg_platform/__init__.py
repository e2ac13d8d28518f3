"""Chest X-ray segmentation from few expert masks, distributed with Ray."""

__version__ = "0.1.0"
