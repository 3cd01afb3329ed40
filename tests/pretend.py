"""A second device on any machine: its tensors say `pretend:0`, compute on the CPU inside, and mix with CPU tensors as
little as those of a GPU do. Needs torch 2.9, which lets Python register a backend."""

from contextlib import contextmanager
from dataclasses import fields, is_dataclass, replace
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten
NAME = "pretend"
BETWEEN_DEVICES = {aten._to_copy.default, aten.copy_.default, aten.lift_fresh.default, aten.lift_fresh_copy.default}
INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default, aten._index_put_impl_.default}
AVAILABLE = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
OWN = aten.silu_backward.default, aten.mish_backward.default, aten.native_channel_shuffle.default


class Pretend(Tensor):
    "A tensor of the pretended device; `raw` is the CPU tensor with its numbers."

    @staticmethod
    def __new__(cls, raw):
        layout = dict(strides=raw.stride(), storage_offset=raw.storage_offset(), dtype=raw.dtype, storage_size=2**50)
        made = Tensor._make_wrapper_subclass(cls, raw.size(), device=torch.device(NAME, 0), **layout)
        made.raw = raw
        return made

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return compute(operation, args, kwargs or {})

    def numpy(self, *args, **kwargs):
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy. Use Tensor.cpu() first")

    __array__ = numpy

    def tolist(self):  # torch's own reads the memory of the wrapper, which has none
        return self.detach().raw.tolist()

    def data_ptr(self):
        return self.raw.data_ptr()

    def __deepcopy__(self, memo):  # torch's own copies the memory of the wrapper
        if id(self) not in memo:
            made = Pretend(self.detach().raw.clone())
            made = nn.Parameter(made) if isinstance(self, nn.Parameter) else made
            memo[id(self)] = made.requires_grad_(self.requires_grad)
        return memo[id(self)]

    def __repr__(self):
        return f"Pretend({self.detach().raw!r})"


def compute(operation, args, kwargs):
    "Run one operation on the CPU tensors inside; refuse what a GPU refuses."
    there = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Pretend)]
    wanted = kwargs.get("device")
    on_device = bool(there) if wanted is None else wanted.type == NAME
    if there:
        refuse_mixed(operation, args, kwargs)
    if on_device and kwargs.get("generator") is not None:
        raise RuntimeError(f"Expected a '{NAME}' device type for generator but found 'cpu' in {operation}")
    raw_args, raw_kwargs = tree_map(without_device, (args, kwargs))
    if operation is aten.copy_.default:  # the only operation that writes into a tensor of another device
        raw_args[0].copy_(*raw_args[1:], **raw_kwargs)
        return args[0]
    result = operation(*raw_args, **raw_kwargs)
    follow_shapes(there)
    known = {id(x.raw): x for x in there}  # operations in place return the tensor that came
    return tree_map(lambda x: wrapped(x, known) if on_device and isinstance(x, Tensor) else x, result)


def wrapped(x, known):
    "Return the tensor of the device that holds `x`."
    return known[id(x)] if id(x) in known else Pretend(x)


def refuse_mixed(operation, args, kwargs):
    """Raise `RuntimeError` where tensors of both devices meet.

    As on a GPU, a CPU number without axes is let in where it is only read, and a CPU index everywhere."""
    if operation in BETWEEN_DEVICES:
        return
    given = dict(zip((a.name for a in operation._schema.arguments), args)) | kwargs
    for argument in operation._schema.arguments:
        value = given.get(argument.name)
        if isinstance(value, Tensor):
            written = argument.alias_info is not None and argument.alias_info.is_write
            indexed = operation in INDEXED and argument.name == "self"
            strange = not isinstance(value, Pretend) and (value.ndim > 0 or written or indexed)
        else:
            listed = tree_leaves(value) if operation not in INDEXED else []
            strange = any(isinstance(x, Tensor) and not isinstance(x, Pretend) for x in listed)
        if strange:
            where = f"argument {argument.name} of {operation}"
            raise RuntimeError(f"Expected all tensors to be on the same device, but found {NAME}:0 and cpu, {where}")


def without_device(x):
    "Return what the CPU gets for an argument."
    if isinstance(x, Pretend):
        return x.raw
    return torch.device("cpu") if isinstance(x, torch.device) and x.type == NAME else x


def follow_shapes(tensors):
    "Give wrappers the shape that an operation in place, such as `squeeze_`, gave to the tensors inside."
    for x in tensors:
        raw = x.raw
        if x.shape != raw.shape or x.stride() != raw.stride():
            with torch._C._DisableTorchDispatch():
                x.as_strided_(raw.shape, raw.stride(), raw.storage_offset())


class Module:
    "What torch asks of `torch.pretend`. It counts as not available, so that nothing chooses it by itself."

    def is_available(self):
        return False

    def is_initialized(self):
        return False

    def _is_in_bad_fork(self):
        return False

    def manual_seed_all(self, seed):
        "Draws on the device come from the CPU's global generator."

    def get_amp_supported_dtype(self):
        return [torch.bfloat16, torch.float16]


@cache
def register():
    "Make the device known to this process, for good; returns what has to be kept."
    # one backward pass before: or torch starts a thread for the second device, and no fork can differentiate
    torch.ones((), requires_grad=True).backward()
    backend_registration._setup_privateuseone_for_python_backend(NAME, Module())
    everything, below = torch.library.Library("_", "IMPL"), torch.library.Library("aten", "IMPL")
    everything.fallback(lambda operation, *args, **kwargs: compute(operation, args, kwargs), "PrivateUse1")
    # torch.tensor works below `__torch_dispatch__`, where the fallback is not looked for; and torch composes some
    # operations of others unless the device has one of its own, as the CPU has
    for operation in (aten.copy_.default, aten._local_scalar_dense.default, *OWN):
        below.impl(operation, lambda *args, operation=operation: compute(operation, args, {}), "PrivateUse1")
    return everything, below


@contextmanager
def pretended():
    """Let tensors move to `pretend:0` inside the block.

    The backward pass stays in this thread, for there are no others. Attention is the plain product on both devices:
    the CPU's fused one is chosen by the place of the tensors and rounds in another order."""
    register()
    with torch.autograd.set_multithreading_enabled(False), sdpa_kernel(SDPBackend.MATH):
        yield torch.device(NAME, 0)


class Watched(TorchDispatchMode):
    "Let the CPU differentiate by the formulas that torch keeps for wrappers: those of a product round differently."

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return operation(*args, **(kwargs or {}))


def move(x, device):
    "Move tensors, modules and containers of them, as a caller would."
    if isinstance(x, (Tensor, nn.Module)):
        return x.to(device)
    if isinstance(x, dict):
        return {key: move(value, device) for key, value in x.items()}
    if is_dataclass(x):
        return replace(x, **{field.name: move(getattr(x, field.name), device) for field in fields(x)})
    return type(x)(move(value, device) for value in x) if isinstance(x, (list, tuple)) else x
