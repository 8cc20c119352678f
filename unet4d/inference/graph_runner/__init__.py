"""The runner of exported graphs: its files are copied beside them, so they are short, and import numpy and onnxruntime alone.

In: a folder of graphs and a study. Out: its label map, equal to that of `unet4d predict`.
"""
