"""How the matching loss's scalars are computed: `ghost` where every layer has a rule, `general` for any model."""

from attacks.evaluators.base import Evaluator
from attacks.evaluators.choose import choose

__all__ = ["Evaluator", "choose"]
