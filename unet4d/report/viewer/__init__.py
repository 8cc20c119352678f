"""The 4D viewer of a report page: NiiVue and our scripts around it, and a study small enough to be put into the page."""

from unet4d.report.viewer.embedding import Embedded, embedded
from unet4d.report.viewer.scripts import LICENCE, NIIVUE_VERSION, niivue, own

__all__ = ["LICENCE", "NIIVUE_VERSION", "Embedded", "embedded", "niivue", "own"]
