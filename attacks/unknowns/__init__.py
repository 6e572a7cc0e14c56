"""What an attack optimises, and how: one unknown a file, and the guess that they make up together."""

from attacks.unknowns.base import ALONG, NOISE, Draw, Guess, Setting, Unknown, noise_of
from attacks.unknowns.images import Images
from attacks.unknowns.labels import SoftLabels
from attacks.unknowns.noise import Anew, Noise

__all__ = ["ALONG", "NOISE", "Anew", "Draw", "Guess", "Images", "Noise", "Setting", "SoftLabels", "Unknown", "noise_of"]
