"""Many studies segmented into one folder, by several jobs and processes at once, and resumable.

In: studies and models. Out: label maps, volumes.csv, measures.csv, prediction.json, and a hidden record of each case.
job_split shares the studies out, pipeline overlaps reading and writing with computing, run does the work, output_folder writes.
"""
