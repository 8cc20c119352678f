"""Networks as plain torch modules, their checkpoints, and the devices they run on.

In: clips (B, T, C, X, Y, Z), or a run folder. Out: logits (B, T, K, X, Y, Z) and states, or trained models.
"""
