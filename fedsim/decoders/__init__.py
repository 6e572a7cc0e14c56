"""Decoders for attacks with a generative prior: by name, or the user's own by factory, with the weights of a file.

>>> decoder = build({"name": "conv", "latent": 16}, input_shape=(1, 28, 28))
>>> decoder.latent_shape
(16,)
"""

from fedsim.decoders.build import DECODERS, build, names, parameters
from fedsim.decoders.described import built, params_of, sent, with_contents
from fedsim.decoders.train import train

__all__ = ["DECODERS", "build", "built", "names", "parameters", "params_of", "sent", "train", "with_contents"]
