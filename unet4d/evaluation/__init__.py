"""Scores of label maps against references, and the comparison of two methods.

In: label maps of any program, reference labels, frame times. Out: metrics.csv, volumes_compared.csv, measures_compared.csv,
temporal.csv, summary.json (`evaluate`), comparison.json and comparison.csv (`compare`), flags of implausible label maps
(`plausibility`).
"""
