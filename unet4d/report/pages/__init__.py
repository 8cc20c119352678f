"""HTML pages of a report, from jinja2 templates.

In: segmented studies with their pictures, and an evaluation. Out: the text of index.html and of one page per study.
study_page.py and index_page.py fill study.html and index.html; macros.html has their tables; page.css has their look.
"""
