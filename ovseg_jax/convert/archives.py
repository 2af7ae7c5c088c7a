"""Files and zip archives as bytes in place: mapped, sliced, and unpacked only within limits."""

import io
import mmap
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

from ovseg_jax.convert.refusals import AGAIN, Unreadable, shown

# Python keeps about ten times as much per member; a ViT-L in PyTorch's format takes 100 kB.
MAX_TABLE_BYTES = 16 << 20
# Weights hardly compress: what unpacks to much more than its file was made to fill the memory.
UNPACKED_SLACK, UNPACKED_RATIO = 256 << 20, 8

_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, lengths of name and extra field


class MappedFile:
    """A file as memory; its pages are read when they are touched.

    The file must not change while the object or an array made from it is in use.

    Attributes:
      path: where it lies.
      map: the mapping, also a stream with `read`, `readline` and `seek`.
      data: uint8 [size], read-only.
    """

    def __init__(self, path: Path):
        """Maps a regular file.

        Raises:
          Unreadable: it is empty or may not be read.
        """
        self.path = path
        try:
            with open(path, "rb") as file:
                self.map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise Unreadable(f"is empty; {AGAIN}") from error
        except OSError as error:
            raise Unreadable(f"cannot be read ({error.strerror}); check its permissions") from error
        self.data = np.frombuffer(self.map, np.uint8)


class _TableFile(io.FileIO):
    def read(self, size: int = -1) -> bytes:
        if size > MAX_TABLE_BYTES:
            raise Unreadable(f"has an absurdly long table of contents; {AGAIN}")
        return super().read(size)


class ZipArchive:
    """The members of a zip file.

    PyTorch writes every member uncompressed ("stored"), so that a storage is a slice of the file;
    NumPy's `savez_compressed` deflates. Checksums are not compared: that would read everything.

    Attributes:
      names: of the members, in the order of the file's table of contents.
    """

    def __init__(self, file: MappedFile):
        """Reads the table of contents, which stands at the end of the file.

        Raises:
          Unreadable: it is missing (the file is cut off), damaged, or lists a name twice.
        """
        try:
            with _TableFile(file.path) as table, zipfile.ZipFile(table) as archive:
                members = archive.infolist()
        except (
            zipfile.BadZipFile,
            ValueError,
            NotImplementedError,
            OSError,
            struct.error,
        ) as error:
            raise Unreadable(f"is not a complete zip archive ({shown(error)}); {AGAIN}") from error
        self._data = file.data
        self._members = {member.filename: member for member in members}
        self._allowance = UNPACKED_SLACK + UNPACKED_RATIO * len(file.data)
        if len(self._members) < len(members):
            raise Unreadable(f"holds several members of one name; {AGAIN}")

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names."""
        return tuple(self._members)

    def stored(self, name: str) -> np.ndarray:
        """A view of an uncompressed member, uint8 [size].

        Raises:
          Unreadable: there is no such member, it is compressed, encrypted or cut off.
        """
        member = self._member(name)
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise Unreadable(
                f"holds {shown(name)} in compressed form, which PyTorch never writes; "
                "unpack the archive and pack it without compression, or save the weights anew"
            )
        return self._body(member)

    def unpacked(self, name: str, limit: int | None = None) -> np.ndarray:
        """The bytes of a member, uint8 [size]: a view, or what unpacking gives.

        All that is unpacked from one archive may together take 256 MB and eight times the archive.

        Args:
          name: of the member.
          limit: the most bytes that it may have; None = any number.

        Raises:
          Unreadable: as `stored`; or a limit is exceeded, or the packing is damaged or unknown.
        """
        member = self._member(name)
        if limit is not None and member.file_size > limit:
            raise Unreadable(f"has an absurdly large {shown(name)}; save the weights alone")
        if member.compress_type == zipfile.ZIP_STORED:
            return self.stored(name)
        if member.compress_type != zipfile.ZIP_DEFLATED:
            raise Unreadable(f"packs {shown(name)} in an unknown way; save it uncompressed")
        self._allowance -= member.file_size
        if self._allowance < 0:
            raise Unreadable("unpacks to absurdly much for its size; save it uncompressed")
        try:
            content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(
                self._body(member), member.file_size + 1
            )
        except zlib.error as error:
            raise Unreadable(f"is damaged in {shown(name)} ({error}); {AGAIN}") from error
        if len(content) != member.file_size:
            raise Unreadable(f"is damaged in {shown(name)} (another length); {AGAIN}")
        return np.frombuffer(content, np.uint8)

    def _member(self, name: str) -> zipfile.ZipInfo:
        if name not in self._members:
            raise Unreadable(f"lacks its member {shown(name)}; {AGAIN}")
        member = self._members[name]
        if member.flag_bits & 1:
            raise Unreadable(f"holds {shown(name)} in encrypted form; decrypt it first")
        return member

    def _body(self, member: zipfile.ZipInfo) -> np.ndarray:
        header = self._data[max(0, member.header_offset) :][: _LOCAL_HEADER.size].tobytes()
        if len(header) == _LOCAL_HEADER.size:
            signature, *lengths = _LOCAL_HEADER.unpack(header)
            start = member.header_offset + _LOCAL_HEADER.size + sum(lengths)
            stop = start + member.compress_size
            if signature == b"PK\x03\x04" and member.header_offset >= 0 and stop <= len(self._data):
                return self._data[start:stop]
        raise Unreadable(f"lacks the content of {shown(member.filename)}; {AGAIN}")
