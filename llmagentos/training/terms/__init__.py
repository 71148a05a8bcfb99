"""Loss terms by name. A new one is a file here and a line in `TERMS`."""

from llmagentos.training.terms.dpo import DPO
from llmagentos.training.terms.kto import KTO
from llmagentos.training.terms.next_token import NextToken
from llmagentos.training.terms.old_model_kl import OldModelKL
from llmagentos.training.terms.policy_gradient import PolicyGradient
from llmagentos.training.terms.teacher_kl import TeacherKL
from llmagentos.training.terms.term import Outputs, Term

TERMS: dict[str, type[Term]] = {
    "next_token": NextToken,
    "old_model_kl": OldModelKL,
    "teacher_kl": TeacherKL,
    "kto": KTO,
    "dpo": DPO,
    "policy_gradient": PolicyGradient,
}

__all__ = ["TERMS", "Outputs", "Term"]
