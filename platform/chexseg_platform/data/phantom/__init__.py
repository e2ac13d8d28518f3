"""Chest X-ray phantoms in CheXpert's and CheXlocalize's layouts, for trying everything out.

Anatomy, findings, reports and readers are drawn from distributions that follow published figures
of the real data, so that what runs on the phantom runs on the real thing. It is calibrated against
those figures once and to nothing else (see `calibration`); no method's result was looked at.
"""

from .layout import PhantomRefused
from .write import PhantomSummary, write_phantom

__all__ = ["PhantomRefused", "PhantomSummary", "write_phantom"]
