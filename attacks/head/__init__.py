"""What the update of one image reveals at a linear layer that sees one vector, whatever was dropped before it.

It sees one vector h (after dropout, so `h * m / (1-p)` where a mask m was drawn) and gets one delta from all that lies
behind it, at the head `softmax(W h + b) - onehot` for cross-entropy. Hence

    dL/dW = delta h^T        dL/db = delta

are of rank one together and give both vectors exactly. So a model can be *cut* at such a layer: where all that the loss
depends on passes through it, what lies behind the layer acts on what lies before it by delta alone, and may be random,
unknown, or part of a defense. The earliest such layer leaves least to be found.

Without a bias the lengths of both vectors are open, and only at the head, the model's last linear layer, they can be
told: `delta` is known up to a factor, and `log delta_k = t (W v)_k + const` over the classes k other than the label, a
straight line in the logits of the unit vector v along h; its slope t is the length of h.
"""

from attacks.head.finding import Cut, Head, end_at, find_cut, find_head
from attacks.head.reading import Reading, read_head

__all__ = ["Cut", "Head", "Reading", "end_at", "find_cut", "find_head", "read_head"]
