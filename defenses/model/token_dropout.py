"""Dropped tokens as a defense: every client draws which patches of an image its model looks at."""

from __future__ import annotations

from torch import nn

from defenses.base import Defense, register
from defenses.stochastic.places import behind, tokens
from defenses.stochastic.tokens import TokenDropout


@register("token_dropout")
class TokenDropoutDefense(Defense):
    """Take a random part of the tokens out of the sequence once they know their positions (PatchDropout: Liu et al.,
    WACV 2023); in evaluation mode all are there.

    It finds the modules `positions` and `pos_drop`, and what the model's attribute `tokens` names: a module whose
    output is all tokens (B, N, D).

    Args:
        p: the share of tokens that is dropped, in [0, 1).
        first: how many tokens at the front stay, such as a class token; at least 0.
    """

    behind = True

    def __init__(self, *, p: float = 0.5, first: int = 1) -> None:
        if not 0 <= p < 1:
            raise ValueError(f"token_dropout: p = {p} is not in [0, 1)")
        if isinstance(first, bool) or not isinstance(first, int) or first < 0:
            raise ValueError(f"token_dropout: first = {first} is not a whole number of at least 0")
        self.p, self.first = p, first

    def on_model(self, model: nn.Module) -> nn.Module:
        found = tokens(model)
        if found is None:
            raise ValueError(
                f"token_dropout: {type(model).__name__} has no tokens that are known; give it an attribute tokens, the "
                "name of the module whose output they are"
            )
        behind(found, "token_dropout", TokenDropout(self.p, self.first))
        return model
