"""DICOM objects of a segmented DICOM study: segmentations, a report of measurements, pictures.

In: a label map on the study's grid and where each of its planes came from (result.py). Out: DICOM files (write.py), which keep the
study's identity and have stable UIDs. highdicom, which is in the extra `dicom`, makes what the standard describes in detail.
"""
