"""The header of a `.weights` file.

    int32 major, int32 minor, int32 revision, then the images seen in training:
    int32 where 10 major + minor < 2, 64 bits otherwise

Source: `load_weights_upto` of Darknet's `src/parser.c`; a version of 1000 or more, which marked transposed
matrices, reads 32 bits too.
"""

import struct
from dataclasses import dataclass

from secateur.errors import CheckpointError

__all__ = ["Header"]


@dataclass(frozen=True)
class Header:
    """What stands before the numbers.

    Attributes:
        major: First number of the format's version.
        minor: Second number.
        revision: Third number.
        seen: Images seen in training.

    Example:
        >>> Header(0, 1, 0, seen=64).size, Header(0, 2, 5, seen=2**40).size
        (16, 20)
        >>> Header.read(Header(0, 2, 5, seen=2**40).packed())
        Header(major=0, minor=2, revision=5, seen=1099511627776)
    """

    major: int = 0
    minor: int = 2
    revision: int = 0
    seen: int = 0

    @property
    def size(self) -> int:
        """Its bytes."""
        return struct.calcsize(self._format)

    @property
    def _format(self) -> str:
        wide = self.major * 10 + self.minor >= 2 and self.major < 1000 and self.minor < 1000
        return "<3iQ" if wide else "<3iI"

    def packed(self) -> bytes:
        """The header as it stands in the file.

        Raises:
            CheckpointError: The version counts in 32 bits and more images were seen.
        """
        values = (self.major, self.minor, self.revision, self.seen)
        try:
            return struct.pack(self._format, *values)
        except struct.error as error:
            what = f"{self.seen} images seen, version {self.major}.{self.minor} counts to {2**32 - 1}"
            raise CheckpointError(what, do="write version 0.2, which counts in 64 bits") from error

    @staticmethod
    def read(content: bytes, name: str = "the file") -> "Header":
        """Read a header.

        Args:
            content: The first 20 bytes of a file, or all of a shorter one.
            name: What messages call it.

        Returns:
            The header.

        Raises:
            CheckpointError: There are fewer bytes than a header has, or its version is negative.
        """
        if len(content) >= 12:
            header = Header(*struct.unpack_from("<3i", content))
            if header.major < 0 or header.minor < 0:
                what = f"{name} is of version {header.major}.{header.minor}"
                raise CheckpointError(what, do="this is no Darknet weights file")
            if len(content) >= header.size:
                return Header(*struct.unpack_from(header._format, content))
        what = f"{name} holds {len(content)} bytes, a header has 16 or 20"
        raise CheckpointError(what, do="fetch or write the file again")
