"""Verification of a dataset: every file of every study is read once, and all mistakes are listed in one pass.

In: a `Dataset`; its files may be missing or damaged (run_checks.py).
Out: `Verification`, with the `Issue`s and the `StudyProperties` of each study, remembered until a file changes.
"""
