"""Phantoms with exact labels, as data to try, test and compare with: a beating heart, 4D flow, contrast uptake.

study.py     what every kind gives         dataset.py   many subjects as a dataset folder

cine.py      a beating heart: image, label and truth
heart.py     anatomy and motion            cover.py     the heart laid over a grid
thorax.py    what lies round it            scanner.py   contrast, noise, artefacts
subject.py   one subject on one grid

flow.py      4D flow of the great vessels: magnitude, velocities, label and truth
vessels.py   tubes and the blood in them   mediastinum.py   what lies round them

dce.py       contrast uptake of the kidneys: series, T1 map, label and truth
uptake.py    contrast agent and signal     abdomen.py       kidneys, lesion and what lies round them
"""

from unet4d.phantom.cine import LABELS, make_cine
from unet4d.phantom.dataset import KINDS, write_phantom
from unet4d.phantom.dce import make_dce
from unet4d.phantom.flow import make_flow
from unet4d.phantom.study import PhantomStudy

__all__ = ["KINDS", "LABELS", "PhantomStudy", "make_cine", "make_dce", "make_flow", "write_phantom"]
