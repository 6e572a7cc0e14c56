"""A device that this machine has not: what is computed there is computed here, under the rules of an accelerator.

A tensor on it says so (`tensor.device`), and so does all that is computed of it. What an accelerator refuses is
refused: operands that lie on the processor beside others that lie on the device (but for single numbers), a generator
of the processor that draws there, NumPy. What makes the processor wait for it is counted.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("lazy:0")
"""A type of device of PyTorch's own that needs no backend to have tensors, and whose gradients are computed at once."""

aten = torch.ops.aten

ALONE = {"cat", "stack", "mm", "bmm", "addmm", "gather", "scatter", "index_select", "index_copy", "index_add"}
"""Operations that take no single number of the processor either."""

WAITS = {
    *("_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "unique_dim", "unique_consecutive"),
    *("_linalg_check_errors", "bincount", "nonzero_static"),
}
"""Operations whose outcome, or its shape, the processor has to see."""


class OnDevice(Tensor):
    """A tensor that is said to lie on the device, and holds the numbers here."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnDevice:
        how = {"strides": held.stride(), "storage_offset": held.storage_offset(), "dtype": held.dtype}
        found = Tensor._make_wrapper_subclass(cls, held.shape, **how, device=DEVICE, requires_grad=False)
        found.held = held
        return found

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError("a tensor of the pretended device is used outside of PretendedDevice")

    def tolist(self) -> Any:
        return self.cpu().tolist()  # as PyTorch does it for other devices, but not for subclasses

    def numpy(self, **_: Any) -> Any:
        raise TypeError(f"a tensor of {self.device} is no array: .cpu() first")

    def __repr__(self, **_: Any) -> str:
        return f"OnDevice({self.held!r})"


class _OfNumbers(TorchFunctionMode):
    """Tensors that are made of Python's numbers are made here and moved: no mode sees PyTorch do it."""

    def __init__(self, waits: Counter[str]) -> None:
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        target = kwargs.get("device")
        if func is Tensor.new_tensor:
            target = target or args[0].device
            made = torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs, "device": "cpu"})
            return made.to(target)
        if func in (Tensor.__getitem__, Tensor.__setitem__) and args[0].device.type == DEVICE.type:
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            self.waits["a list as an index"] += any(isinstance(place, list) for place in places)
            place = tuple(map(_index, places))
            values = (torch.tensor(v, dtype=args[0].dtype) if isinstance(v, int | float) else v for v in args[2:])
            return func(args[0], place, *values)
        if func in (torch.tensor, torch.as_tensor) and target is not None and torch.device(target).type == DEVICE.type:
            return func(*args, **{**kwargs, "device": "cpu"}).to(target)
        return func(*args, **kwargs)


def _index(given: Any) -> Any:
    return torch.tensor(given, dtype=None if given else torch.int64) if isinstance(given, list) else given


class PretendedDevice(TorchDispatchMode):
    """While it is entered, `DEVICE` is there.

    Attributes:
        waits: how often the processor had to wait, by operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self._of_numbers = _OfNumbers(self.waits)

    def __enter__(self) -> PretendedDevice:
        self._of_numbers.__enter__()
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # a tensor in place of what another one holds
        super().__enter__()
        return self

    def __exit__(self, *given: Any) -> None:
        super().__exit__(*given)
        torch.__future__.set_overwrite_module_params_on_conversion(False)
        self._of_numbers.__exit__(*given)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        flat, _ = tree_flatten((args, kwargs))
        tensors = [one for one in flat if isinstance(one, Tensor)]
        there = [one for one in tensors if isinstance(one, OnDevice)]
        name = func.overloadpacket.__name__
        target = kwargs.get("device")
        goes = DEVICE.type == torch.device(target).type if target is not None else bool(there)
        if not there and not goes:
            return func(*args, **kwargs)
        self._refuse(name, func, args, tensors, there, flat, goes)
        self._count(name, args, there, goes)
        if target is not None and goes:
            kwargs["device"] = torch.device("cpu")
        inner = tree_map(lambda one: one.held if isinstance(one, OnDevice) else one, (args, kwargs))
        found = func(*inner[0], **inner[1])
        if name == "copy_" and not isinstance(args[0], OnDevice):
            return args[0]
        if not goes:
            return found
        found = tree_map(lambda one: OnDevice(one) if isinstance(one, Tensor) else one, found)
        return return_and_correct_aliasing(func, args, kwargs, found) if there else found

    def _refuse(self, name: str, func: Any, args: Any, tensors: Any, there: Any, flat: Any, goes: bool) -> None:
        for one in flat:
            if isinstance(one, torch.Generator) and goes and one.device.type != DEVICE.type:
                raise RuntimeError(f"{func}: a generator of the {one.device.type} draws on the device")
        if name in ("copy_", "_to_copy", "set_") or not there:
            return
        apart = [one for one in tensors if not isinstance(one, OnDevice) and (one.dim() or name in ALONE)]
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            apart = [one for one in apart if not any(one is index for index in args[1])]
        if apart:
            shape = tuple(apart[0].shape)
            raise RuntimeError(f"{func}: {apart[0].dtype} {shape} lies on the processor, others on the device")

    def _count(self, name: str, args: Any, there: Any, goes: bool) -> None:
        masks = name.startswith("index") and any(
            isinstance(one, Tensor) and one.dtype is torch.bool for one in tree_flatten(args[1])[0]
        )
        back = name in ("_to_copy", "copy_") and there and not (goes and isinstance(args[0], OnDevice))
        back = back and (name != "copy_" or isinstance(args[1], OnDevice))
        if name in WAITS or masks or back:
            self.waits[name] += 1
