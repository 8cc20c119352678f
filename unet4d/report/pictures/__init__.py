"""Pictures of a 4D study: contour sheets, volume curves, looping animations; each picture is `(H, W, 3)` uint8."""

from unet4d.report.pictures.contour_sheet import animation, contour_sheet, thumbnail
from unet4d.report.pictures.curve_plot import volume_curves
from unet4d.report.pictures.render import class_colour, save_picture, save_png

__all__ = ["animation", "class_colour", "contour_sheet", "save_picture", "save_png", "thumbnail", "volume_curves"]
