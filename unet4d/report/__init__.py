"""HTML report of predictions: one page per study with a 4D viewer, and an index.

In: images, label maps, their prediction.json, and optionally an evaluation. Out: index.html, `<case>.html` and pictures. The pages
are self-contained and open no connection. `pages` has the HTML, `pictures` the drawings, `viewer` the 4D viewer.
"""
