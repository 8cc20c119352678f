"""A benchmark on real cine MRI by cross-validation: nnU-Net, this project's network and its rivals, at equal CPU time.

    python -m experiments.real_cine.run DATASET WORK --all      trains, predicts and scores what is missing
    python -m experiments.real_cine.table WORK                  writes the tables into experiments/results/real_cine/

What is run is written in arms.yaml and ablations.yaml beside this file; experiments/README.md has the protocol and the results.
"""
