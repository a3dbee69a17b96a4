# Copyright (c) deim_mmdet contributors. SPDX-License-Identifier: Apache-2.0
"""Reads the tensors of a pickled model without its classes, and without running anything.

Some repositories save the model itself, not its weights. To unpickle it the usual way one needs
their classes, and runs whatever the file asks for. Here every class and function that a file names
is replaced by an inert stand-in, but for containers and what tensors are made of.
"""

import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict, List, Mapping, Optional, Tuple

import torch
from torch import Tensor

STORAGES = {
    'BFloat16Storage': torch.bfloat16,
    'BoolStorage': torch.bool,
    'ByteStorage': torch.uint8,
    'CharStorage': torch.int8,
    'DoubleStorage': torch.float64,
    'FloatStorage': torch.float32,
    'HalfStorage': torch.float16,
    'IntStorage': torch.int32,
    'LongStorage': torch.int64,
    'ShortStorage': torch.int16,
}
# The old format of torch.save: pickles of these two and of the machine, then of the object and of
# the keys of its storages, then the storages.
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
LOW_PRECISION = (torch.float16, torch.bfloat16)


def read_pickled_model(path: Path) -> Optional[Tuple[Dict[str, Any], Optional[List[str]]]]:
    """Read a file in which a whole model was saved.

    Args:
        path (Path): A file of ``torch.save``, in its zip or its old format: a model, or a dict with
            a model as 'ema' or 'model'.

    Returns:
        tuple[dict, list[str] | None], optional: A published checkpoint, see
        :func:`published_weights`, with weights in float32 where they were in half precision; and
        the names of its classes, if the model carries ``names``. None when there is no model in the
        file.

    Raises:
        Exception: Of many kinds, where the file is damaged.
    """
    content = load_without_classes(path)
    if not isinstance(content, Mapping):
        content = dict(model=content)
    models = {key: content[key] for key in ('ema', 'model') if is_module(content.get(key))}
    if not models:
        return None
    checkpoint = {key: _in_float32(state_dict_of(model)) for key, model in models.items()}
    if 'ema' in checkpoint:
        checkpoint['ema'] = dict(module=checkpoint['ema'])
    epoch = content.get('epoch')
    if isinstance(epoch, int) and epoch >= 0:
        checkpoint['last_epoch'] = epoch
    return checkpoint, _class_names(next(iter(models.values())).state.get('names'))


class StandIn:
    """An object whose class is not imported: it keeps its state and does nothing."""

    state: Any = None

    def __new__(cls, *args, **kwargs) -> 'StandIn':
        return object.__new__(cls)

    def __init__(self, *args, **kwargs) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def _ignore(self, *args) -> None:
        """What pickle calls to fill lists, dicts and sets of a class of their own."""

    append = extend = add = __setitem__ = _ignore


class RestrictedUnpickler(pickle.Unpickler):
    """Unpickler of ``torch.save`` that knows containers and tensors, and stands in for the rest.

    Args:
        file (BinaryIO): The pickle.
        storage (Callable): Returns the flat tensor of a storage, given its persistent id but for
            the leading 'storage': dtype, key, device, number of elements, in old files also None.
    """

    def __init__(self, file: BinaryIO, storage: Callable[..., Tensor]) -> None:
        super().__init__(file, encoding='utf-8')
        self._storage = storage
        self._stand_ins: Dict[Tuple[str, str], type] = {}

        # NOTE made for each file: a pickle can change attributes of the functions it is given
        def tensor(flat, offset, size, stride, *_):
            return flat.as_strided(
                tuple(size), tuple(stride), offset
            )  # within its storage, or fails

        def parameter(data, *_):
            return data

        self._known = {
            ('collections', 'OrderedDict'): OrderedDict,
            ('torch', 'Size'): tuple,
            ('torch._utils', '_rebuild_tensor'): tensor,
            ('torch._utils', '_rebuild_tensor_v2'): tensor,
            ('torch._utils', '_rebuild_parameter'): parameter,
            ('torch._utils', '_rebuild_parameter_with_state'): parameter,
        }
        for builtins in ('builtins', '__builtin__'):
            self._known[builtins, 'set'] = set
        for module in ('torch', 'torch.cuda'):
            self._known.update({(module, name): dtype for name, dtype in STORAGES.items()})

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the pickle stands for; nothing is ever imported."""
        key = module, name
        if key in self._known:
            return self._known[key]
        if key not in self._stand_ins:
            self._stand_ins[key] = type(name, (StandIn,), {})
        return self._stand_ins[key]

    def persistent_load(self, saved_id: Any) -> Any:
        kind, *args = saved_id
        if kind == 'module':  # old files keep the source of a class beside it
            return args[0]
        if kind != 'storage':
            raise pickle.UnpicklingError(f'unknown persistent id {kind!r}')
        return self._storage(*args)


def load_without_classes(path: Path) -> Any:
    """What was saved in a file of ``torch.save``, with a :class:`StandIn` for every unknown object.

    Args:
        path (Path): The file, in either format of ``torch.save``.

    Returns:
        Any: Tensors on the CPU, which may share memory as they did when they were saved.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return _load_zip(archive)
    with open(path, 'rb') as file:
        return _load_legacy(file)


def is_module(value: Any) -> bool:
    """Whether a loaded value was an ``nn.Module``."""
    return (
        isinstance(value, StandIn) and isinstance(value.state, dict) and '_modules' in value.state
    )


def state_dict_of(
    module: StandIn, prefix: str = '', outer: Tuple[int, ...] = ()
) -> Dict[str, Tensor]:
    """The ``state_dict()`` of a module that was loaded without its classes.

    Args:
        module (StandIn): One for which :func:`is_module` holds.
        prefix (str): What the names begin with. Defaults to ''.
        outer (tuple[int]): Identities of the modules around it. Defaults to none.

    Returns:
        dict[str, Tensor]: Parameters and persistent buffers by name.

    Raises:
        ValueError: A module contains itself.
    """
    if id(module) in outer:
        raise ValueError(f'the module {prefix[:-1]} contains itself')
    state = module.state
    not_saved = state.get('_non_persistent_buffers_set') or ()
    weights = {
        f'{prefix}{name}': tensor
        for part in ('_parameters', '_buffers')
        for name, tensor in (state.get(part) or {}).items()
        if isinstance(tensor, Tensor) and name not in not_saved
    }
    for name, child in state['_modules'].items():
        if is_module(child):
            weights.update(state_dict_of(child, f'{prefix}{name}.', (*outer, id(module))))
    return weights


def _load_zip(archive: zipfile.ZipFile) -> Any:
    (pickled,) = (name for name in archive.namelist() if name.endswith('/data.pkl'))
    folder = pickled[: -len('data.pkl')]
    storages: Dict[str, Tensor] = {}

    def storage(dtype: torch.dtype, key: str, location: Any, numel: int) -> Tensor:
        if key not in storages:
            content = bytearray(archive.read(f'{folder}data/{key}'))
            # frombuffer refuses a buffer of no bytes
            storages[key] = torch.frombuffer(content, dtype=dtype) if content else _empty(0, dtype)
        return storages[key]

    with archive.open(pickled) as file:
        return RestrictedUnpickler(file, storage).load()


def _load_legacy(file: BinaryIO) -> Any:
    storages: Dict[str, Tensor] = {}

    def storage(dtype: torch.dtype, key: str, location: Any, numel: int, view: Any) -> Tensor:
        if view is not None:
            raise pickle.UnpicklingError('storages within storages are not supported')
        if key not in storages:
            storages[key] = _empty(numel, dtype)  # filled below
        return storages[key]

    def load() -> Any:
        return RestrictedUnpickler(file, storage).load()

    if (load(), load()) != (LEGACY_MAGIC, LEGACY_PROTOCOL):
        raise pickle.UnpicklingError('this is no file of torch.save')
    load()  # byte order and sizes of numbers of the machine
    content = load()
    for key in load():
        (numel,) = struct.unpack('<q', file.read(8))
        flat = storages[key]
        if numel != len(flat):
            raise pickle.UnpicklingError(f'storage {key} has {numel} elements, not {len(flat)}')
        data = file.read(numel * flat.element_size())
        if len(data) != numel * flat.element_size():
            raise EOFError(f'storage {key} is cut off')
        if data:
            flat.copy_(torch.frombuffer(bytearray(data), dtype=flat.dtype))
    return content


def _empty(numel: int, dtype: torch.dtype) -> Tensor:
    return torch.empty(numel, dtype=dtype)


def _in_float32(weights: Mapping[str, Tensor]) -> Dict[str, Tensor]:
    return {k: v.float() if v.dtype in LOW_PRECISION else v for k, v in weights.items()}


def _class_names(names: Any) -> Optional[List[str]]:
    if isinstance(names, dict) and set(names) == set(range(len(names))):
        names = [names[i] for i in range(len(names))]
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return names
    return None
