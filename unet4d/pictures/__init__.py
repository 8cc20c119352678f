"""Pictures of a 4D study: contour sheets, volume curves, looping animations; each picture is `(H, W, 3)` uint8."""

from unet4d.pictures.curves import volume_curves
from unet4d.pictures.png import class_colour, save_picture, save_png
from unet4d.pictures.sheet import animation, contour_sheet, thumbnail

__all__ = ["animation", "class_colour", "contour_sheet", "save_picture", "save_png", "thumbnail", "volume_curves"]
