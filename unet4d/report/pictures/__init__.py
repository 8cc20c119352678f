"""Pictures of a 4D study: contour sheets, volume curves, looping animations.

In: images and label maps (T, X, Y, Z), volume curves (T,). Out: pictures `(H, W, 3)` uint8 and their files.
"""
