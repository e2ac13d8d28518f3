"""Collections of images with mask files: each layout is read into the same entries.

What experts drew is a file here, one a structure, and not run lengths in a table. Readers list
files; pixels are read where the dataset is made.
"""
