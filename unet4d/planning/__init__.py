"""Settings that fit a GPU.

In: a dataset, a memory in GB and what the user set. Out: a plan with its reasons, and plan.yaml.
"""
