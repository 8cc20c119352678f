"""Cine and dynamic series in DICOM: from a folder of files to 4D studies.

files.py       the DICOM images under a folder, by their headers alone
header.py      the planes of a file, from its header
plane.py       one image plane, a file or a frame of a multi-frame file
candidates.py  which planes belong to one study: one series, or one series a slice joined
geometry.py    planes into slices; what is wrong with them; the affine
times.py       the order of a slice's frames, the frame duration, the time axis
stack.py       slices x frames, complete, or the list of what is wrong
pixels.py      the voxels
"""
