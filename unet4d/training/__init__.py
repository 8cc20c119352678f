"""Training: from a dataset to a network that is validated, saved and logged after every epoch (train.py, trainer.py: the loop).

In: a dataset folder and a `Config`. Out: a run folder with checkpoints, config.yaml, summary.json, log.jsonl and TensorBoard files.
Batches come from batches.py, a step is step.py (loss, gradients, new weights), monitoring/ is what people see of a run.
"""
