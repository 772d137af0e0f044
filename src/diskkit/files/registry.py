# SPDX-License-Identifier: Apache-2.0
"""Values of a Windows registry hive, through libregf. Runs where the filesystem is parsed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from diskkit.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diskkit.files.filesystem import FileSystem, RegistryValue

MAX_VALUE = 65536
_STRINGS, _BINARY, _NUMBERS = (1, 2), 3, (4, 5, 11)


class _HiveFile:
    """A file of a filesystem as the file object that the library asks for."""

    def __init__(self, fs: FileSystem, id: int) -> None:
        self._fs, self._id, self._at = fs, id, 0
        self._size = fs.stat(id).size

    def read(self, length: int) -> bytes:
        content = self._fs.read_at(self._id, self._at, length)
        self._at += len(content)
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def get_size(self) -> int:
        return self._size


def read_values(fs: FileSystem, id: int, wanted: Sequence[tuple[str, str]]) -> list[RegistryValue]:
    """Values by (key path, value name).

    Raises `FormatError` if the file is no hive.
    """
    import pyregf

    hive: Any = pyregf.file()
    try:
        hive.open_file_object(_HiveFile(fs, id))
        try:
            return [_value(hive, path, name) for path, name in wanted]
        finally:
            hive.close()
    except OSError as error:
        text = (str(error).partition(": ")[2] or str(error))[:200]
        raise FormatError(text, structure="registry hive") from None


def _value(hive: Any, path: str, name: str) -> RegistryValue:  # noqa: ANN401
    key = hive.get_key_by_path("\\" + path)
    value = None if key is None else key.get_value_by_name(name)
    if value is None or value.get_data_size() > MAX_VALUE:
        return None
    kind = value.get_type()
    if kind in _STRINGS:
        text: str = value.get_data_as_string()
        return text
    if kind in _NUMBERS:
        number: int = value.get_data_as_integer()
        return number
    if kind == _BINARY:
        content: bytes = value.get_data() or b""
        return content
    return None
