"""What every module may use and that has nothing to do with images: safe text, CSV files, failures, memory errors.

text.py       text that is safe to print
csv_file.py   CSV files that are safe to open in a spreadsheet
failures.py   an exception as the failure of one study
memory_errors.py   the errors that mean that memory ran out
"""
