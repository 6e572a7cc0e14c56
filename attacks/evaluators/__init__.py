"""How the matching loss's scalars are computed: `ghost` where every layer has a rule, `general` for any model."""

from attacks.evaluators.base import Beliefs, Evaluator
from attacks.evaluators.choose import choose

__all__ = ["Beliefs", "Evaluator", "choose"]
