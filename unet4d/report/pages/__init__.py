"""The pages of a report: one a study, one for them all; everything inside them.

segmented.py   one segmented study        study_page.py   its page            index_page.py   the page of all
measures.py    what its curves say        provenance.py   how it was made     scores.py       how good it is
html.py        elements, all text escaped; a page that may open no connection   page.css   how it looks, on screen and in print
"""
