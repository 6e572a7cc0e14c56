"""Which labels a batch had, inferred from the update: one method a file, and the rule that picks among them.

    infer_labels(model, gradient, batch_size=8, classes=10)                      # what `labels: inferred` does
    infer_labels(model, gradient, batch_size=8, classes=10, method="geng")       # one method, as published

Under cross-entropy the gradient at class k's logit is `mean(softmax_k) - count_k / B`, and its product with what enters
the last linear layer is that layer's weight gradient. The methods differ in how they tell the two terms apart.
`docs/labels.md` says which works where.
"""

from attacks.labels.base import Evidence, Inferred, LabelInference, create, names, register
from attacks.labels.choose import infer_labels

__all__ = ["Evidence", "Inferred", "LabelInference", "create", "infer_labels", "names", "register"]
