"""Synthetic 4D studies of a beating heart, with the exact label of every frame.

In: a seed and a number of frames (`make_cine`), or an output folder and a number of subjects (`write_phantom`).
Out: one `PhantomStudy` (cine.py), or a dataset folder with the truth beside it (phantom_dataset.py).
"""

from unet4d.phantom.cine import make_cine
from unet4d.phantom.phantom_dataset import write_phantom

__all__ = ["make_cine", "write_phantom"]
