"""Helpers of Python and the machine for all rooms: files, text, memory, signals, threads, processes, progress bars.

In: paths, texts and numbers. Out: the same, checked and safe to write or print, or one of the errors in unet4d/errors.py.
Nothing here knows an image, a study or a network.
"""
