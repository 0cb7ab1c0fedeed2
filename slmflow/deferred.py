"""A transformers model whose weights are read only when somebody asks for their values.

The model builder walks modules and moves weights about (transposed, concatenated, split). On a
`DeferredTensor` each of these is noted, not done: it has a shape and a dtype, and no values in memory until
`stored` reads them from the file, one weight at a time. `reading_weights` lets such a model compute, each
module's weights read when it is called and dropped when it returns.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import torch
from safetensors import safe_open
from torch.utils._pytree import tree_map

from slmflow.errors import SlmflowError
from slmflow.tensors import tensors_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from slmflow.tensors import StoredTensor

aten = torch.ops.aten
MOVES = {
    aten.alias.default,
    aten.cat.default,
    aten.clone.default,
    aten.detach.default,
    aten.expand.default,
    aten.permute.default,
    aten.select.int,
    aten.slice.Tensor,
    aten.split.Tensor,
    aten.split_with_sizes.default,
    aten.squeeze.dim,
    aten.stack.default,
    aten.t.default,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.view.default,
    aten._unsafe_view.default,
}
"""Operations that change no value: they may be done in the file's own dtype, before widening."""


@dataclass(frozen=True)
class Leaf:
    """A tensor in a safetensors file."""

    path: Path
    key: str

    def read(self) -> torch.Tensor:
        """The values, mapped from the file and unmapped when the last reference goes."""
        with safe_open(self.path, framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(self.key)
        return tensor


@dataclass(frozen=True)
class Operation:
    """What makes a tensor of others; `part` where the operation gives several."""

    function: Any
    arguments: tuple[Any, ...]
    keywords: dict[str, Any]
    part: int | None = None


class DeferredTensor(torch.Tensor):
    """A weight, or what was made of some, without values; it says fp32, whatever dtype is stored."""

    meta: torch.Tensor
    origin: Leaf | Operation

    @staticmethod
    def __new__(cls, meta: torch.Tensor, origin: Leaf | Operation) -> DeferredTensor:
        """`meta` has the shape, strides and dtype."""
        made: DeferredTensor = torch.Tensor._make_wrapper_subclass(
            cls, meta.shape, strides=meta.stride(), dtype=meta.dtype, device="cpu", requires_grad=False
        )
        made.meta, made.origin = meta, origin
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        """Shape and origin; the values are not here."""
        return f"DeferredTensor({tuple(self.shape)}, {self.origin})"

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Note the operation; one that needs values (`.item()`) reads them and is done."""
        keywords = kwargs or {}
        if function._schema.is_mutable:
            raise NotImplementedError(f"{function} would change a deferred weight in place")
        try:
            result = function(*tree_map(_meta_of, args), **tree_map(_meta_of, keywords))
        except (NotImplementedError, RuntimeError):
            return function(*tree_map(_values_of, args), **tree_map(_values_of, keywords))
        if isinstance(result, torch.Tensor):
            return cls(result, Operation(function, args, keywords))
        if isinstance(result, (list, tuple)):
            return [cls(part, Operation(function, args, keywords, i)) for i, part in enumerate(result)]
        return result


def _meta_of(value: Any) -> Any:
    if isinstance(value, DeferredTensor):
        return value.meta
    return value.to("meta") if isinstance(value, torch.Tensor) else value


def _values_of(value: Any) -> Any:
    return stored(value).to(value.dtype) if isinstance(value, DeferredTensor) else value


def stored(tensor: torch.Tensor) -> torch.Tensor:
    """The values of a deferred tensor, in the file's dtype where it was only moved about; others as they are.

    What computes with weights (Gemma's `weight + 1`) does so in fp32, as it would on a model loaded whole.
    """
    if not isinstance(tensor, DeferredTensor):
        return tensor.detach()
    if isinstance(tensor.origin, Leaf):
        return tensor.origin.read()
    made = tensor.origin
    convert = stored if made.function in MOVES else _values_of
    arguments, keywords = tree_map(
        lambda value: convert(value) if isinstance(value, DeferredTensor) else value,
        (made.arguments, made.keywords),
    )
    with torch.no_grad():
        result = made.function(*arguments, **keywords)
    found: torch.Tensor = result if made.part is None else result[made.part]
    return found


def leaf_names(tensor: torch.Tensor) -> list[str]:
    """The tensors of the file that a deferred one is made of, in order; none for another tensor."""
    if not isinstance(tensor, DeferredTensor):
        return []
    if isinstance(tensor.origin, Leaf):
        return [tensor.origin.key]
    found: list[str] = []
    tree_map(
        lambda value: found.extend(leaf_names(value)) if isinstance(value, DeferredTensor) else None,
        (tensor.origin.arguments, tensor.origin.keywords),
    )
    return found


def deferred_model(folder: Path) -> torch.nn.Module:
    """The causal language model of a Hugging Face folder, its parameters deferred.

    transformers itself finds the place of each tensor, also where a folder has other names than the model,
    or a tensor for each expert where the model has one for all. Raises SlmflowError when a parameter has no
    tensor of its shape in the folder.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    with _parameters_without_values():
        model: Any = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, attn_implementation=attention_for(config)
        )
    _place(model, {name: _deferred(name, tensor) for name, tensor in tensors_in(folder).items()}, folder)
    for name, buffer in model.named_buffers():  # those that a folder holds are weights too, and small
        if isinstance(buffer, DeferredTensor):
            owner, _, own = name.rpartition(".")
            setattr(model.get_submodule(owner), own, stored(buffer))
    found: torch.nn.Module = model.eval().requires_grad_(False)
    return found


def attention_for(config: Any) -> str | None:
    """The attention that computes all that a model's configuration says; None for transformers' own choice.

    Its choice is torch's fused one, which leaves the cap on attention scores out without a word (Gemma 2).
    """
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else None


def _deferred(name: str, tensor: StoredTensor) -> DeferredTensor:
    return DeferredTensor(torch.empty(tensor.shape, device="meta"), Leaf(tensor.path, name))


def _place(model: Any, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    """Let transformers put the tensors into the model, as it does in `from_pretrained`."""
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import convert_and_load_state_dict_in_model
    from transformers.modeling_utils import LoadStateDictConfig

    config = LoadStateDictConfig(dtype=torch.float32, weight_mapping=get_model_conversion_mapping(model))
    expected = {name: list(parameter.shape) for name, parameter in model.named_parameters()}
    with _without_bar():
        info, _ = convert_and_load_state_dict_in_model(model=model, state_dict=tensors, load_config=config)
    model.tie_weights(missing_keys=info.missing_keys, recompute_mapping=False)
    lacking = {*info.missing_keys, *(name for name, *_ in info.mismatched_keys)} & expected.keys()
    if lacking:
        name = min(lacking)
        raise SlmflowError(f"{folder}: no tensor {name} of shape {expected[name]} in its safetensors")
    if info.conversion_errors:
        raise SlmflowError(f"{folder}: {next(iter(info.conversion_errors.values()))}")


@contextlib.contextmanager
def _without_bar() -> Iterator[None]:
    """Transformers shows how far it is with loading; nothing is read here."""
    from transformers.utils import logging

    if not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


@contextlib.contextmanager
def _parameters_without_values() -> Iterator[None]:
    """Modules made within have parameters on the meta device; buffers, which are computed, are real."""
    register = torch.nn.Module.register_parameter

    def register_meta(self: torch.nn.Module, name: str, parameter: torch.nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:  # one that is, is tied: the same object
            parameter = torch.nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(self, name, parameter)

    with patch.object(torch.nn.Module, "register_parameter", register_meta):
        yield


@contextlib.contextmanager
def reading_weights(model: torch.nn.Module) -> Iterator[None]:
    """Within it a deferred model computes in fp32, holding the weights of one module at a time.

    A plain embedding is looked up in the mapped file, and what was found is widened; Gemma's, which scales by
    a factor of its weight's dtype, is widened before.
    """

    def read(module: torch.nn.Module, inputs: Any) -> None:
        for name, parameter in deferred[module].items():
            values = stored(parameter.data)
            module._parameters[name] = torch.nn.Parameter(
                values if type(module) is torch.nn.Embedding else values.float(), requires_grad=False
            )

    def drop(module: torch.nn.Module, inputs: Any, output: Any) -> Any:
        module._parameters.update(deferred[module])
        return output.float() if type(module) is torch.nn.Embedding else output

    deferred = {
        module: {name: parameter for name, parameter in module._parameters.items() if parameter is not None}
        for module in model.modules()
    }
    # The weight of a convolution with a state is used by its parent, without a call.
    callers = {
        conv: caller for caller in deferred for conv in caller.children() if type(conv) is torch.nn.Conv1d
    }
    with contextlib.ExitStack() as stack:
        for module, parameters in deferred.items():
            if parameters:
                caller = callers.get(module, module)
                before, after = _for(module, read), _for(module, drop)
                stack.callback(caller.register_forward_pre_hook(before).remove)
                stack.callback(caller.register_forward_hook(after).remove)
        yield


def _for(module: torch.nn.Module, hook: Callable[..., Any]) -> Callable[..., Any]:
    """A hook that is told of `module`, whichever it is registered on."""
    return lambda _, *rest: hook(module, *rest)


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """A tensor's bytes in C order; numpy knows no bfloat16."""
    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
