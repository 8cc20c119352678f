"""4D viewer of a page: NiiVue, the scripts around it, and a study made small enough for a page.

In: image and label of a study. Out: JavaScript, and both volumes as base64.
embedding.py makes the study small, scripts.py reads the scripts; README.md has the origin of NiiVue.
"""
