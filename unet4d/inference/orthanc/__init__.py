"""A worker beside an Orthanc server, the DICOM archive: series that arrive are segmented, and the results go back into their study.

In: the server's address, rules and models. Out: DICOM objects stored on the server, and a record of each series in its metadata.
client talks to the server, rules choose, claims keep the record, worker does the work, survey shows it.
"""
