"""Monitoring: what people see of a training, while it runs and afterwards.

In: the numbers of every step and epoch. Out: log.jsonl, TensorBoard, MLflow, summary.json, the progress bar, advice, `unet4d info`.
"""
