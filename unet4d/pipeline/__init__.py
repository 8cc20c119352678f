"""The way from a case to a batch.

In: cases of a dataset. Out: preprocessed studies in a cache, and clips of patches, augmented (augmentation/).
"""
