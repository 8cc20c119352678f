"""Pictures of a 4D study: contour sheets, volume curves, looping animations; each picture is `(H, W, 3)` uint8."""
