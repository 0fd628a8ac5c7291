"""Labels out of the authors' npz files, in which arrays are pickled dicts.

Nobody's pickle is run: numpy's array, dtype and scalar are replaced by stand-ins that give plain
Python values, and every other global is refused. numpy itself must not rebuild them, for a forged
dtype or array state makes it read memory that is not the file's.
"""

import pickle
import pickletools
import re
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from affectgpt_r1.errors import InputError, MissingFileError

#: Of one member, unpacked: several times the largest label file of the field.
LIMIT_BYTES = 16 << 20


def read_dict(path: Path, member: str) -> dict[Any, Any]:
    """The dict that is a member of an npz file: a pickled object array without dimensions.

    Numbers and texts of numpy's become Python's, arrays inside it flat lists.

    Args:
        path: the npz file.
        member: the array's name, without `.npy`.

    Raises:
        MissingFileError: there is no such file.
        InputError: it is damaged, has no such member or one above 16 MiB, or its pickle asks for
            anything but numpy's arrays, dtypes and scalars.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{member}.npy") as file:
            content = file.read(LIMIT_BYTES + 1)
        if len(content) > LIMIT_BYTES:
            raise InputError(f"above {LIMIT_BYTES >> 20} MiB, which no labels need: it is not read")
        return _unpickle(content)
    except FileNotFoundError:
        raise MissingFileError(f"no file at {path}: check the path") from None
    except Exception as error:  # zipfile and a damaged pickle raise nearly anything
        why = str(error) if isinstance(error, InputError) else f"damaged ({error!r:.200})"
        raise InputError(f"{path}, member {member!r}: {why}; fetch it from its authors") from None


def _unpickle(content: bytes) -> dict[Any, Any]:
    stream = BytesIO(content)
    np.lib.format.read_magic(stream)
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)  # as numpy.savez writes it
    if shape != () or dtype != np.dtype(object):
        raise InputError(f"{dtype} {shape}, not one pickled dict")
    for opcode, argument, _ in pickletools.genops(content[stream.tell() :]):
        # The unpickler takes a number's or a length's word for it, and as much memory.
        if "PUT" in opcode.name and int(argument or 0) > len(content):
            raise ValueError("its memo is larger than the file")
        if isinstance(argument, str):
            argument.encode()  # half characters could not be written again
    found = _Unpickler(stream).load()
    if isinstance(found, _Array) and len(found) == 1 and isinstance(found[0], dict):
        return found[0]
    raise InputError("no dict is in it")


class _DType:
    def __init__(self, code: str, *_: object) -> None:
        self.order, self.code = "|", code

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]

    def values(self, data: bytes) -> Any:
        if not re.fullmatch(r"[<>=|][biufSU]\d{1,5}", name := f"{self.order}{self.code}"):
            raise ValueError(f"values of type {name}")
        return np.frombuffer(data, name).tolist()


class _Array(list[Any]):
    def __init__(self, *_: object) -> None:
        super().__init__()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, _, dtype, _, data = state
        self[:] = data if isinstance(data, list) else dtype.values(data)


_STAND_INS: Mapping[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy.core.multiarray", "scalar"): lambda dtype, data: dtype.values(data)[0],
    ("numpy.core.numeric", "_frombuffer"): lambda data, dtype, *_: dtype.values(data),
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # protocol 2 writes bytes so
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        known = module.replace("numpy._core.", "numpy.core."), name
        if known not in _STAND_INS:
            raise InputError(f"its pickle asks for {module}.{name}: refused, and nothing was run")
        return _STAND_INS[known]
