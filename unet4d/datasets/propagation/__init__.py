"""Labels propagated from the drawn frames of a study to all others, by registration of neighboring frames.

In: a dataset with some drawn frames per study (propagate.py), or frames and label maps (carry.py).
Out: a dataset in which every frame has a label, with weights; or the contradictions between drawn frames (cross_frames.py).
"""
