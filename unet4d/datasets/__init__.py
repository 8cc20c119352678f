"""Many studies: a dataset.json and its cases.

In: folders of images and labels, in our layout or others' (convert/). Out: `Dataset` and `Case`, verified (verify/).
"""
