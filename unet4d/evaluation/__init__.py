"""What is measured of studies that have a reference, and what many of them come to.

scores.py      one study, frame by frame        heart.py    its cavities and myocardium
over_time.py   one study, over its frames       written.py  an evaluation's files, read again
summary.py     means and agreement of many      tables.py   the files, and the terminal
quantities.py  what two methods are compared in
"""
