"""Preprocessing of studies with a cache, and sampling, augmentation and loading of training clips.

In: cases of a dataset. Out: preprocessed studies in a cache, and clips of patches, augmented (augmentation/).
"""
