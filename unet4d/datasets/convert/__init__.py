"""Conversion of other layouts: a folder or file goes in, a `Source` of studies or a dataset folder comes out.

layouts.py is the list of layouts, layout_options.py has their options, convert.py writes the dataset.

acdc.py        the ACDC challenge: patientNNN/patientNNN_4d.nii.gz, patientNNN_frameXX_gt.nii.gz, Info.cfg
nnunet.py      nnU-Net raw data: dataset.json, imagesTr/CASE_0000.nii.gz, labelsTr; frames of one subject are joined
frames.py      folders of 3D files, one per frame: .nrrd with .seg.nrrd as 3D Slicer exports them, .nii.gz
sequence.py    3D Slicer sequences: .seq.nrrd, with .seg.seq.nrrd beside them
dicom.py       cine and dynamic series as scanners and PACS leave them, single-frame or enhanced multi-frame
"""

LAYOUT_NAMES = ("acdc", "nnunet", "frames", "sequence", "dicom")
"""Names of the layouts in layouts.py, in its order, for those that must not import it yet."""
