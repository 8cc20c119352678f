"""Numbers from label arrays: overlap, surface distances, temporal consistency, volume curves, statistics over subjects.

In come integer label maps (T, X, Y, Z), curves (T,) and values per subject; frames are measured one by one, in mm and mL. Out come
arrays (T, K) for K label values, or single numbers; what is undefined is NaN in an array and None alone. docs/metrics.md
defines each.
"""
