"""Metrics of label maps: overlap, surface distances, temporal consistency, volume curves, statistics over subjects.

In come integer label arrays (T, X, Y, Z), measured frame by frame in mm and mL, curves (T,) or values per subject. Out come arrays
(T, K) for K label values, or single numbers; an undefined value is NaN in an array and None alone.
docs/reference/metrics.md defines each.
"""
