"""The four places that may be read or written, and nothing else: hooks on whole blocks, attention and MLP modules and
attention output projections (design rule 2)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from undertow.errors import CoverageError, EditError
from undertow.model.anatomy import Anatomy, first_tensor, hidden_input, with_first_tensor

Site = tuple[str, int]
Visit = Callable[[Tensor], Tensor | None]


def check_site(anatomy: Anatomy, site: Site) -> None:
    """Refuse a site that this model does not have.

    Raises:
        EditError: the block does not exist.
        CoverageError: the block has no such part, or none that can be read.
    """
    kind, index = site
    blocks = len(anatomy.blocks)
    last = blocks if kind == "state" else blocks - 1
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index <= last:
        raise EditError(f"There is no {kind} {index}: this model has {kind} 0 to {last}.")
    if kind == "state":
        return
    part = {"heads": anatomy.projections, "attention": anatomy.attentions, "mlp": anatomy.mlps}[kind][index]
    if part is None:
        wanted = {"heads": "heads that can be read", "attention": "attention module", "mlp": "MLP"}[kind]
        raise CoverageError(f"Block {index} of this model has no {wanted}: {'; '.join(anatomy.notes) or kind}.")


def attach(anatomy: Anatomy, site: Site, visit: Visit) -> RemovableHandle:
    """Call a function on the tensor at a site during every forward pass; what it returns, if anything, takes its place.

    Args:
        anatomy: the model's parts.
        site: ``("state", l)``, ``("heads", l)`` (the output projection's input), ``("attention", l)``, ``("mlp", l)``.
        visit: gets (batch, tokens, width); must not change it in place.

    Returns:
        The hook's handle.
    """
    kind, index = site
    if kind == "state" and index < len(anatomy.blocks):
        return anatomy.blocks[index].register_forward_pre_hook(_on_input(visit), with_kwargs=True)
    if kind == "state":
        return anatomy.blocks[-1].register_forward_hook(_on_output(visit))
    if kind == "heads":
        projection = anatomy.projections[index]
        assert projection is not None
        return projection.register_forward_pre_hook(_on_input(visit), with_kwargs=True)
    module = (anatomy.attentions if kind == "attention" else anatomy.mlps)[index]
    assert module is not None
    return module.register_forward_hook(_on_output(visit))


@contextmanager
def attached(anatomy: Anatomy, visits: list[tuple[Site, Visit]]) -> Iterator[None]:
    """Attach visits in order (the first sees the tensor first) and remove them on every exit."""
    with ExitStack() as stack:
        for site, visit in visits:
            stack.callback(attach(anatomy, site, visit).remove)
        yield


def _on_input(visit: Visit) -> Callable[..., Any]:
    def hook(module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        changed = visit(hidden_input(arguments, keywords))
        if changed is None:
            return None
        if arguments and isinstance(arguments[0], Tensor):
            return (changed, *arguments[1:]), keywords
        return arguments, {**keywords, "hidden_states": changed}

    return hook


def _on_output(visit: Visit) -> Callable[..., Any]:
    def hook(module: Any, arguments: tuple[Any, ...], output: Any) -> Any:
        changed = visit(first_tensor(output))
        return None if changed is None else with_first_tensor(output, changed)

    return hook
