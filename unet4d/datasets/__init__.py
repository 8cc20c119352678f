"""Many studies: dataset.json and its cases (cases.py, dataset.py), other layouts (convert/), checks of all files (verify/).

In: folders of images and labels, in the layout of this package or in others.
Out: `Dataset` and `Case`, or a `Source` of `Study`s that are read one by one.
"""
