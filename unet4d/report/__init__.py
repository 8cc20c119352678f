"""One HTML page per study, and an index.

In: images, label maps and an evaluation.
Out: pages (pages/) with pictures (pictures/) and a 4D viewer (viewer/); they open no connection.
"""
