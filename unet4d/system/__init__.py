"""Modules that have nothing to do with images: safe text, CSV files, failures, memory errors, stop
signals, progress bars, threads.

text.py       text that is safe to print
csv_file.py   CSV files that are safe to open in a spreadsheet
regular_files.py   files opened to read, and no pipes or devices
class_values.py   names and values that the classes of a dataset may have
plain_yaml.py   YAML that is nothing but settings
checks.py     types, choices and ranges of settings
failures.py   an exception as the failure of one study
memory_errors.py   the errors that mean that memory ran out
signals.py    stop signals, noted by handlers and obeyed between two steps
progress_bar.py   progress bars and lines above them
cuda_allocator.py   settings of torch's allocator on a GPU, made before torch reads them
nvidia.py     the driver and the GPUs of this machine, seen without torch
fork_server.py   the process that several ranks fork their workers from
threads.py    work in other threads, for which nothing waits without asking whether to stop
"""
