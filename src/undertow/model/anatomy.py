"""Where an architecture keeps its blocks, attention outputs, heads, final norm and unembedding.

Structure is searched for, not looked up by name: the blocks are the list as long as the configuration says, the
attention output projection is the linear map that ends the attention module. What a search cannot find is declared
with `register_anatomy`, from outside if need be. Everything found is held against arithmetic (design rule 6).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from undertow.errors import CoverageError

_ATTENTION_WORDS = ("attn", "attention")
_MLP_WORDS = ("mlp", "feed_forward", "feedforward", "ffn", "moe", "experts")


@dataclass(frozen=True)
class AnatomyHint:
    """Dotted paths for what a structural search misses in one model type; None leaves a part to the search.

    Attributes:
        blocks: from the model to the list of blocks.
        attention: from a block to its attention module.
        projection: from the attention module to its output projection.
        mlp: from a block to its MLP.
        final_norm: from the model to the norm after the last block.
    """

    blocks: str | None = None
    attention: str | None = None
    projection: str | None = None
    mlp: str | None = None
    final_norm: str | None = None


_HINTS: dict[str, AnatomyHint] = {}


def register_anatomy(
    model_type: str,
    *,
    blocks: str | None = None,
    attention: str | None = None,
    projection: str | None = None,
    mlp: str | None = None,
    final_norm: str | None = None,
) -> None:
    """Declare where a model type keeps its parts, for architectures that the search does not understand.

    Args:
        model_type: ``config.model_type`` of the model.
        blocks: dotted path from the model to the list of blocks, such as ``"model.layers"``.
        attention: dotted path from a block to its attention module.
        projection: dotted path from the attention module to its output projection.
        mlp: dotted path from a block to its MLP.
        final_norm: dotted path from the model to the final norm.
    """
    _HINTS[model_type] = AnatomyHint(blocks, attention, projection, mlp, final_norm)


@dataclass
class Anatomy:
    """The parts of a loaded model that Undertow reads and writes.

    Attributes:
        blocks: the L transformer blocks; state l is the input of block l, state L the output of the last.
        attentions: each block's attention module, None where it has none.
        projections: each block's attention output projection, None where heads cannot be read.
        mlps: each block's MLP, None where it has none of its own.
        final_norm: the norm after the last block, None where there is none.
        unembedding: the module that maps to the vocabulary.
        heads: attention heads of each block (0 where not readable).
        head_sizes: width of one head's output in each block (0 where not readable).
        width: size of the residual stream (d_model).
        dtype: floating-point type of the residual stream.
        notes: what is not covered, a sentence each.
    """

    blocks: list[nn.Module]
    attentions: list[nn.Module | None]
    projections: list[nn.Module | None]
    mlps: list[nn.Module | None]
    final_norm: nn.Module | None
    unembedding: nn.Module | None
    heads: list[int]
    head_sizes: list[int]
    width: int
    dtype: torch.dtype = torch.float32
    notes: list[str] = field(default_factory=list)


def first_tensor(output: Any) -> Tensor:
    """The hidden states in a module's output, which may be a tensor or a tuple that starts with one."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, (tuple, list)) and output and isinstance(output[0], Tensor):
        return output[0]
    raise CoverageError(f"A module returned {type(output).__name__}, in which no hidden states can be found.")


def hidden_input(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Tensor:
    """The hidden states among a module's inputs: the first positional tensor, or the one named so."""
    if arguments and isinstance(arguments[0], Tensor):
        return arguments[0]
    if isinstance(keywords.get("hidden_states"), Tensor):
        return keywords["hidden_states"]
    raise CoverageError("A block was called without hidden states as its first argument.")


def find_anatomy(model: Any) -> Anatomy:
    """Search a causal language model for its parts and check them by arithmetic on one short forward pass.

    Args:
        model: a Hugging Face causal language model.

    Returns:
        The parts found, with a note for each that is missing.

    Raises:
        CoverageError: the blocks cannot be found, or what flows through them is not the model's residual stream.
    """
    config = model.config.get_text_config(decoder=True)
    hint = _HINTS.get(model.config.model_type) or _HINTS.get(config.model_type) or AnatomyHint()
    layers = getattr(config, "num_hidden_layers", None)
    if not isinstance(layers, int):
        raise CoverageError(f"The configuration of {config.model_type!r} does not say how many blocks there are.")
    path, blocks = _find_blocks(model, layers, hint, config.model_type)
    attentions = [_child(block, hint.attention, _ATTENTION_WORDS) for block in blocks]
    mlps = [_child(block, hint.mlp, _MLP_WORDS) for block in blocks]
    probe = _Probe(model, blocks, attentions)
    width = probe.states[0].shape[-1]
    anatomy = Anatomy(
        blocks=blocks,
        attentions=attentions,
        projections=[None] * layers,
        mlps=mlps,
        final_norm=_find_final_norm(model, path, hint, width),
        unembedding=model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None,
        heads=[0] * layers,
        head_sizes=[0] * layers,
        width=width,
        dtype=probe.states[0].dtype,
    )
    _check_states(anatomy, probe, config.model_type)
    for index in range(layers):
        _find_heads(anatomy, probe, index, hint, config)
    if anatomy.unembedding is None:
        anatomy.notes.append("no unembedding module: logits are read from the model's own output")
    _summarise(anatomy)
    return anatomy


def _follow(module: nn.Module, path: str) -> nn.Module:
    for name in path.split("."):
        module = getattr(module, name)
    return module


def _find_blocks(model: Any, layers: int, hint: AnatomyHint, model_type: str) -> tuple[str, list[nn.Module]]:
    if hint.blocks is not None:
        return hint.blocks, list(_follow(model, hint.blocks))  # type: ignore[call-overload]
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None
    inside = {id(module) for module in decoder.modules()} if isinstance(decoder, nn.Module) else None
    candidates = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == layers and any(True for _ in module[0].children())
    ]
    preferred = [item for item in candidates if inside is not None and id(item[1]) in inside] or candidates
    if not preferred:
        raise CoverageError(
            f"No list of {layers} blocks was found in model type {model_type!r}: "
            f"declare it with undertow.register_anatomy({model_type!r}, blocks=...)."
        )
    name, found = max(preferred, key=lambda item: (-item[0].count("."), _size(item[1])))
    return name, list(found)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _child(block: nn.Module, path: str | None, words: tuple[str, ...]) -> nn.Module | None:
    if path is not None:
        try:
            return _follow(block, path)
        except AttributeError:
            return None
    for name, child in block.named_children():
        lowered = name.lower()
        if any(word in lowered for word in words) and "norm" not in lowered and any(True for _ in child.parameters()):
            return child
    return None


def _find_final_norm(model: nn.Module, path: str, hint: AnatomyHint, width: int) -> nn.Module | None:
    if hint.final_norm is not None:
        return _follow(model, hint.final_norm)
    parent = _follow(model, path.rpartition(".")[0]) if "." in path else model
    norms = [(name, child) for name, child in parent.named_children() if "norm" in type(child).__name__.lower()]
    fitting = [item for item in norms if all(weight.shape == (width,) for weight in item[1].parameters())]
    # Some models norm their embeddings beside the blocks; that one is taken only where there is no other.
    fitting.sort(key=lambda item: "embed" not in item[0].lower())
    return fitting[-1][1] if fitting else None


class _Probe:
    """One forward pass over a few tokens that records what flows through blocks and attention."""

    def __init__(self, model: Any, blocks: list[nn.Module], attentions: list[nn.Module | None]) -> None:
        self.states: list[Tensor] = []
        self.attention_outputs: list[Tensor | None] = [None] * len(blocks)
        self.linear_maps: list[list[tuple[nn.Module, Tensor, Tensor]]] = [[] for _ in blocks]
        self.published: tuple[Tensor, ...] | None = None
        handles = []
        for block in blocks:
            handles.append(block.register_forward_pre_hook(self._enter_block, with_kwargs=True))
        handles.append(blocks[-1].register_forward_hook(self._leave_last))
        for index, attention in enumerate(attentions):
            if attention is None:
                continue
            handles.append(attention.register_forward_hook(self._leave_attention(index)))
            for child in attention.modules():
                if child is not attention and _holds_weights(child):
                    handles.append(child.register_forward_hook(self._leave_linear(index)))
        device = model.get_input_embeddings().weight.device
        if device.type == "meta":
            device = model.device
        vocabulary = model.get_input_embeddings().weight.shape[0]
        ids = torch.arange(3, 9, device=device).unsqueeze(0) % vocabulary
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                output = model(input_ids=ids, use_cache=False, output_hidden_states=True)
            self.published = getattr(output, "hidden_states", None)
        finally:
            for handle in handles:
                handle.remove()
            model.train(training)
        if len(self.states) != len(blocks) + 1:
            raise CoverageError(
                f"One forward pass entered {len(self.states) - 1} blocks and the configuration names {len(blocks)}: "
                "this architecture shares or skips blocks and is not covered."
            )

    def _enter_block(self, module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        self.states.append(hidden_input(arguments, keywords))

    def _leave_last(self, module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        self.states.append(first_tensor(output))

    def _leave_attention(self, index: int) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            self.attention_outputs[index] = first_tensor(output)

        return hook

    def _leave_linear(self, index: int) -> Any:
        def hook(module: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
            if arguments and isinstance(arguments[0], Tensor) and isinstance(output, Tensor):
                self.linear_maps[index].append((module, arguments[0], output))

        return hook


def _holds_weights(module: nn.Module) -> bool:
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


def _check_states(anatomy: Anatomy, probe: _Probe, model_type: str) -> None:
    shapes = {state.shape for state in probe.states}
    if len(shapes) != 1 or len(probe.states[0].shape) != 3:
        raise CoverageError(f"The blocks of {model_type!r} do not pass on one residual stream of constant width.")
    if probe.published is None:
        anatomy.notes.append("the model publishes no hidden states to hold the captured ones against")
        return
    published = probe.published
    layers = len(anatomy.blocks)
    if len(published) != layers + 1 or any(
        not torch.equal(captured, own.to(captured.device))
        for captured, own in zip(probe.states[:layers], published[:layers], strict=False)
    ):
        raise CoverageError(
            f"The states captured at the blocks of {model_type!r} are not the model's own hidden states."
        )
    last = published[layers]
    candidate = probe.states[layers]
    if torch.equal(candidate, last.to(candidate.device)):
        return
    normed = None
    if anatomy.final_norm is not None:
        with torch.no_grad():
            normed = anatomy.final_norm(candidate)
    if (
        normed is None
        or normed.shape != last.shape
        or not torch.allclose(normed.float(), last.to(normed.device).float(), atol=1e-4, rtol=1e-3)
    ):
        anatomy.final_norm = None
        anatomy.notes.append("the final norm was not found: state L is still the last block's output")


def _find_heads(anatomy: Anatomy, probe: _Probe, index: int, hint: AnatomyHint, config: Any) -> None:
    attention, output = anatomy.attentions[index], probe.attention_outputs[index]
    heads = getattr(config, "num_attention_heads", None)
    if attention is None or output is None or not isinstance(heads, int) or not _has_softmax(config, index):
        return
    wanted = _follow(attention, hint.projection) if hint.projection is not None else None
    for module, entered, left in reversed(probe.linear_maps[index]):
        if wanted is not None and module is not wanted:
            continue
        if left.shape != output.shape or entered.dim() != 3 or entered.shape[-1] % heads:
            continue
        if torch.equal(left, output) and _slices_sum(module, entered, left, heads):
            anatomy.projections[index] = module
            anatomy.heads[index] = heads
            anatomy.head_sizes[index] = entered.shape[-1] // heads
            return


def _has_softmax(config: Any, index: int) -> bool:
    """Whether the configuration calls this block a softmax attention block, or says nothing about it.

    Arithmetic cannot tell: the output projection of a linear attention sums over any split into heads.
    """
    kinds = getattr(config, "layer_types", None)
    return not kinds or ("attention" in kinds[index] and "linear" not in kinds[index])


def _slices_sum(module: nn.Module, entered: Tensor, left: Tensor, heads: int) -> bool:
    """Whether the heads' slices, each sent through the projection alone, sum to the attention output."""
    size = entered.shape[-1] // heads
    alone = torch.zeros(heads + 1, *entered.shape[1:], dtype=entered.dtype, device=entered.device)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        alone[head, :, part] = entered[0, :, part]
    with torch.no_grad():
        sent = module(alone).float()
    total = (sent[:heads] - sent[heads]).sum(0) + sent[heads]
    tolerance = 1e-4 if entered.dtype == torch.float32 else 5e-2
    scale = left.float().abs().max().clamp_min(1e-6)
    return bool(((total - left[0].float()).abs().max() / scale) < tolerance)


def _summarise(anatomy: Anatomy) -> None:
    for name, parts in (("attention", anatomy.attentions), ("MLP", anatomy.mlps)):
        missing = [str(index) for index, part in enumerate(parts) if part is None]
        if missing:
            anatomy.notes.append(f"no {name} module found in block {_listing(missing)}")
    unread = [
        str(index)
        for index, (attention, size) in enumerate(zip(anatomy.attentions, anatomy.head_sizes, strict=True))
        if attention is not None and size == 0
    ]
    if unread:
        anatomy.notes.append(f"heads cannot be read in block {_listing(unread)}: no plain output projection ends them")


def _listing(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more"
