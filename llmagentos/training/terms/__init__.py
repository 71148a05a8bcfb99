"""Loss terms by name. A new one is a file here and a line in `TERMS`."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

from llmagentos.core.errors import ConfigError
from llmagentos.training.terms.derpp import DERPP
from llmagentos.training.terms.dpo import DPO
from llmagentos.training.terms.ewc import EWC
from llmagentos.training.terms.kto import KTO
from llmagentos.training.terms.l2_anchor import L2Anchor
from llmagentos.training.terms.masked_kl import MaskedKL
from llmagentos.training.terms.next_token import NextToken
from llmagentos.training.terms.old_model_kl import OldModelKL
from llmagentos.training.terms.policy_gradient import PolicyGradient
from llmagentos.training.terms.teacher_kl import TeacherKL
from llmagentos.training.terms.term import Outputs, Start, Term

TERMS: dict[str, type[Term]] = {
    "next_token": NextToken,
    "l2_anchor": L2Anchor,
    "ewc": EWC,
    "old_model_kl": OldModelKL,
    "masked_kl": MaskedKL,
    "derpp": DERPP,
    "teacher_kl": TeacherKL,
    "kto": KTO,
    "dpo": DPO,
    "policy_gradient": PolicyGradient,
}


def make_terms(settings: Mapping[str, Mapping[str, Any]]) -> list[Term]:
    """Terms by name. Raises ConfigError for a term or a setting that is not known, or has a value it cannot have."""
    made = []
    for name, values in settings.items():
        if name not in TERMS:
            raise ConfigError(f"unknown loss term {name!r}.", hint=f"Known terms: {', '.join(sorted(TERMS))}.")
        known = {s.name: s.default for s in inspect.signature(TERMS[name]).parameters.values() if s.kind != s.VAR_KEYWORD}
        for setting, value in values.items():
            if setting not in known:
                raise ConfigError(f"term {name!r} has no setting {setting!r}.", hint=f"It has: {', '.join(known)}.")
            _check(f"term {name!r}: {setting}", value, known[setting])
        made.append(TERMS[name](**values))
    return made


def _check(what: str, value: Any, default: float | int | str) -> None:
    """A setting is of the kind of its default: a name, a whole number from 1 on, or a number that is not negative."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if isinstance(default, str):
        good, kind = isinstance(value, str), "a name"
    elif isinstance(default, int):
        good, kind = number and isinstance(value, int) and value >= 1, "a whole number above 0"
    else:
        good, kind = number and math.isfinite(value) and value >= 0, "a number of 0 or more"
    if not good:
        raise ConfigError(f"{what} is {value!r}, which is not {kind}.")


__all__ = ["TERMS", "Outputs", "Start", "Term", "make_terms"]
