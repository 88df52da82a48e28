"""What a model's attention layers do with positions, found by running the model's code once.

A config names the parts of a model, not what they do. So the model is built without weights and
run on a few tokens. The keys that a layer gives its cache, at several positions, show whether and
how the layer rotates them. The calls of transformers' attention function show whether transom can
compute attention in its place. There is no list of models that could fall out of date.
"""

from transom.attention.trial.records import MIDDLE, NEAR, Call, ModelTrial, TrialLayer
from transom.attention.trial.trials import model_class, scales_by_position, trial

__all__ = [
    "MIDDLE",
    "NEAR",
    "Call",
    "ModelTrial",
    "TrialLayer",
    "model_class",
    "scales_by_position",
    "trial",
]
