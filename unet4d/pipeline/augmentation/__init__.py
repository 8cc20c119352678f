"""Random variation of clips as MRI varies, in space, intensity, time and single frames.

In: a clip and its labels, larger than the patch. Out: the patch. Parameters are sampled first, deterministic functions apply them.
"""
