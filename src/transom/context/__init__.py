"""One model, one policy, one cache: text of any length in bounded memory."""

from transom.context.context import Context
from transom.context.runner import REBASE_AT
from transom.context.steps import Step
from transom.context.usage import Usage

__all__ = ["REBASE_AT", "Context", "Step", "Usage"]
