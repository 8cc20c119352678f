"""Image files: NIfTI, NRRD, 3D Slicer segmentations, DICOM series; the working grid of the network and the way back from it.

In come paths. Out come `Image4D` (C, T, X, Y, Z) float32 with its header, label maps (T, X, Y, Z) uint8, and files written under
the header of the image. Nothing here knows a dataset, a network or a config.
"""
