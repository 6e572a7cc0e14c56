"""Two sides compared victim by victim: two runs, two versions of fedsim, two attacks.

Both sides attacked the same image, so that what differs between images is no part of the difference.
"""

from fedsim.reporting.comparison.differences import Comparison, Difference, compare
from fedsim.reporting.comparison.pairing import Side
from fedsim.reporting.comparison.view import terminal

__all__ = ["Comparison", "Difference", "Side", "compare", "terminal"]
