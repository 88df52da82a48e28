"""Which layers of a model a policy applies to, and why it cannot where that would be wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import CacheLayerMixin, DynamicLayer, DynamicSlidingWindowLayer

from transom.attention.attention_function import NOT_COMPUTED
from transom.attention.score_rule import SCORE_ARGUMENTS
from transom.attention.trial import Call, ModelTrial, TrialLayer
from transom.errors import UnsupportedModelError
from transom.kv.native_layers import NativeLayer
from transom.policies import Full, Policy, Positional, Scored, Window

__all__ = [
    "check_attends_once",
    "check_attention",
    "check_decoder_only",
    "check_expectation",
    "check_image_positions",
    "check_layers",
    "head_dim_of",
    "layers_of_model",
    "layers_to_bound",
    "within_window",
]


def check_decoder_only(config: PretrainedConfig) -> None:
    """Check that a model attends to one text only.

    Raises:
        UnsupportedModelError: when it has an encoder besides its decoder.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{config.model_type} is an encoder-decoder: its decoder also attends to what the "
            "encoder read, which no policy can bound; expected a causal language model. Use "
            "transformers' own EncoderDecoderCache."
        )


def layers_of_model(config: PretrainedConfig) -> list[NativeLayer]:
    """The layers of the cache that transformers would make for a model.

    Raises:
        UnsupportedModelError: when transformers can make none of the config.
    """
    try:
        return list(DynamicCache(config=config).layers)
    except Exception as error:  # whatever a config lacks
        reason = " ".join(str(error).split())
        raise UnsupportedModelError(
            f"transformers can make no cache for {config.model_type} ({reason}), so there is "
            "nothing to bound. Use the cache that the model makes by itself."
        ) from error


def within_window(
    config: PretrainedConfig, policy: Policy, layers: Sequence[NativeLayer]
) -> Policy:
    """What a policy means for a model whose every layer slides: `Full` is the model's own window.

    Args:
        config, layers: as for `layers_to_bound`.
        policy: as it was given.
    """
    own: int | None = getattr(config, "sliding_window", None)  # chunks have a size, but no window
    windows = {
        layer.sliding_window if type(layer) is DynamicSlidingWindowLayer else None
        for layer in layers
        if isinstance(layer, CacheLayerMixin)
    }
    if own is None or windows != {own} or not isinstance(policy, Full):
        return policy
    return Window(own, kv=policy.kv)


def layers_to_bound(
    config: PretrainedConfig, policy: Policy, layers: Sequence[NativeLayer]
) -> list[int]:
    """Indices of the layers that a policy applies to: those with full attention.

    If there are none, those that slide by themselves, where the policy keeps no more than they do.

    Args:
        config: of the model.
        policy: with sizes in tokens.
        layers: of the cache that transformers would make for the model.

    Raises:
        UnsupportedModelError: when there are none, or some grow in a way of their own.
    """
    kinds = [type(layer) for layer in layers]
    full = [index for index, kind in enumerate(kinds) if kind is DynamicLayer]
    if full:
        growing = {
            kind.__name__
            for kind in kinds
            if issubclass(kind, DynamicLayer)
            and kind is not DynamicLayer
            and not getattr(kind, "is_sliding", False)
        }
        if growing:
            raise UnsupportedModelError(
                f"{config.model_type} has layers of its own that grow with the text "
                f"({', '.join(sorted(growing))}), which no policy can bound yet."
            )
        return full
    sliding = {
        index: layer.sliding_window
        for index, layer in enumerate(layers)
        if type(layer) is DynamicSlidingWindowLayer
    }
    if not sliding:
        raise UnsupportedModelError(
            f"{config.model_type} has no layer with full attention, so there is nothing to bound."
        )
    window = min(sliding.values())
    if policy.capacity is None or policy.capacity > window:
        raise UnsupportedModelError(
            f"every attention layer of {config.model_type} already slides over {window} tokens, "
            f"fewer than {policy} asks for; choose a policy of at most {window} tokens, or 'full' "
            "for the model's own window."
        )
    return list(sliding)


def check_layers(made: ModelTrial, layers: list[int]) -> None:
    """Check that these layers of the cache will attend as a plan says.

    Raises:
        UnsupportedModelError: when a layer computes attention by itself, looks ahead, or attends
            in a way that is not known here.
    """
    reason = None
    if made.failure is not None:
        reason = f"cannot be run without weights to see how it attends ({made.failure})"
    elif made.strays:
        reason = "attends to what is in no layer of the cache"
    else:
        found = (reason for index in layers for reason in _reasons(made.layers.get(index)))
        reason = next(found, None)
    if reason is not None:
        raise UnsupportedModelError(
            f"{made.config.model_type} {reason}, so no policy can be applied. Use transformers' "
            "own DynamicCache."
        )


def head_dim_of(made: ModelTrial, layers: list[int]) -> int:
    """The number of dimensions of a key in these layers of the cache.

    Raises:
        UnsupportedModelError: when they differ.
    """
    sizes = sorted({made.layers[index].keys.shape[-1] for index in layers})
    if len(sizes) > 1:
        raise UnsupportedModelError(
            f"{made.config.model_type} has keys of {sizes} dimensions in layers that one policy "
            "would apply to, which is not supported yet. Use transformers' own DynamicCache."
        )
    return sizes[0]


def check_attends_once(made: ModelTrial, layers: list[int], policy: Policy) -> None:
    """Check that these layers of the cache can compute attention in place of the model's.

    Raises:
        UnsupportedModelError: when the model attends to keys that are not those of one layer of
            the cache, or attends to the keys of a layer more than once.
    """
    for index in layers:
        calls = made.layers[index].calls
        if len(calls) > 1:
            reason = f"attends {len(calls)} times to the keys of layer {index}"
        elif made.layers[index].latent:
            reason = "makes its keys and values of latents in the cache"
        elif not calls[0].same or calls[0].layer != index:
            reason = f"attends to keys other than those it gives layer {index} of the cache"
        else:
            continue
        raise UnsupportedModelError(
            f"{made.config.model_type} {reason}, but under {policy} each layer of the cache "
            "computes attention to its own keys. Use a policy by position without recall, such as "
            "sinks or window."
        )


def check_attention(made: ModelTrial, layers: list[int], implementation: str | None) -> None:
    """Check that the attention that a model runs in single steps does all that its layers ask for.

    Args:
        made: how the model attends.
        layers: of the cache, those that a policy applies to.
        implementation: the name of the model's attention, as in its config.

    Raises:
        UnsupportedModelError: when it is PyTorch's fused attention, and a layer asks for more.
    """
    if "sdpa" not in (implementation or "").split("|"):
        return
    for index in layers:
        given = {name for call in made.layers[index].calls for name in call.given}
        if asked := given.intersection(SCORE_ARGUMENTS):
            raise UnsupportedModelError(
                f"{made.config.model_type} attends with {min(asked)!r} and runs 'sdpa' attention, "
                "which leaves that out: call model.set_attn_implementation('eager') first."
            )


def check_expectation(made: ModelTrial, layers: list[int], policy: Scored) -> None:
    """Check that the attention of queries to come can be estimated, if a policy asks for it.

    Raises:
        UnsupportedModelError: when scores are capped, for which there is no formula.
    """
    capped = any("softcap" in call.given for i in layers for call in made.layers[i].calls)
    if policy.expects and capped:
        raise UnsupportedModelError(
            f"{made.config.model_type} caps its scores (softcap), and {policy.name} knows the "
            "attention to expect only of scores without a cap. Use another policy by score, such "
            "as snapkv."
        )


def check_image_positions(made: ModelTrial, policy: Policy, compact: bool) -> None:
    """Check that a policy can follow the positions of images in a model that may be given some.

    In M-RoPE an image of 32 x 32 tokens takes 32 positions, so the number of tokens before a key
    does not say where the key is. A cache never sees the positions. So nothing may depend on them:
    keys stay where they are, or all keys that a query sees are near it.

    Raises:
        UnsupportedModelError: when the policy would move keys by a number of tokens.
    """
    if not made.several_axes or policy.capacity is None:
        return
    if isinstance(policy, Scored) and policy.expects:
        reason = "reckons with the positions of later queries"
        instead = "Use another policy, such as window, or snapkv with positions='absolute'"
    elif compact and not (isinstance(policy, Positional) and not policy.pinned):
        reason = "with compact positions moves keys by a number of tokens"
        instead = "Use positions='absolute', or a policy that moves no keys, such as window"
    else:
        return
    raise UnsupportedModelError(
        f"an image takes fewer positions than tokens in {made.config.model_type} (M-RoPE), but "
        f"{policy} {reason}. {instead}. For text without images, give the config of the text "
        "model: config=model.config.get_text_config()."
    )


def _reasons(layer: TrialLayer | None) -> Iterator[str]:
    if layer is None:
        yield "does not give its keys to a cache"
        return
    if layer.updates > 1:
        yield f"gives keys to one layer of the cache {layer.updates} times in a pass"
    if not layer.calls:
        yield "computes attention by itself, not through transformers' attention functions"
    for call in layer.calls:
        yield from _reasons_of(call)


def _reasons_of(call: Call) -> Iterator[str]:
    if call.layer is None:
        yield "attends in modules that do not know which layer they are"
    if call.ahead:
        yield "lets tokens see later ones (it is no causal decoder: is_decoder=False, say)"
    if call.own_mask:
        yield "attends under a mask other than the one that transformers made for it"
    for name in NOT_COMPUTED:
        if name in call.given:
            yield f"attends with {name!r}"
    if not call.known:
        yield "changes scores or weights in its attention by more than a cap and learned sinks"
