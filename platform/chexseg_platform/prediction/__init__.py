"""Predicting with a finished segmenter: image files in, masks in the formats that people use out.

Plain torch: no Ray, no MLflow, no workspace. What is imported here costs nothing; modules that
need torch or pydicom are imported where they are used.
"""
