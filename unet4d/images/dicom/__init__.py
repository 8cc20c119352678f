"""DICOM series as 4D studies: cine and dynamic series from any folder, single-frame or multi-frame.

In comes a folder. Out come the candidates for studies, with the reason for each file that is left out, and for a candidate a
`SliceStack` of slices x frames with its affine, frame duration and time axis, then its voxels (T, X, Y, Z) float32.
"""
