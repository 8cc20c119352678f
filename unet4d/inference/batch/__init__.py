"""Many studies segmented into one folder: who takes which, how reading and writing overlap, what lies there afterwards.

shares.py    a part of the studies for each job of an array and each process of torchrun
overlap.py   one study read ahead and one written behind the one that is computed
formats.py   the files of a case: NIfTI, 3D Slicer's sequences and segmentations, probabilities
records.py   what each case was made from, and whether its files are whole; what is recorded is not made again
tables.py    volumes.csv, prediction.json and summary.json, from the records of everybody who writes there
folder.py    the folder with all that in it
"""
