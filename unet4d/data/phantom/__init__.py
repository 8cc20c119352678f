"""A beating heart as 4D cine MRI with the exact label of every frame: data to try, test and compare with.

heart.py     anatomy and motion           cover.py    the heart laid over a grid
thorax.py    what lies round it           scanner.py  contrast, noise, artefacts
subject.py   one subject on one grid      study.py    image, label and truth
dataset.py   many subjects as a dataset folder
"""

from unet4d.data.phantom.dataset import write_phantom
from unet4d.data.phantom.study import LABELS, PhantomStudy, make_study

__all__ = ["LABELS", "PhantomStudy", "make_study", "write_phantom"]
