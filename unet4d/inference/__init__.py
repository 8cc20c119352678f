"""Trained networks applied to new studies, by sliding window over all frames.

In: models and images. Out: 4D label maps, volume curves, and a folder of many studies that can be resumed (batch/).
"""
