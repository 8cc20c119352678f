"""What a user sees of a run.

In: steps and validations. Out: log.jsonl, TensorBoard, MLflow, warnings, summary.json, and what `info` prints.
"""
