"""Errors of the arithmetic.

QuantError
 ├── UnknownTypeError   a type name that ggml does not have; lists the known ones
 ├── ShapeError         a row that does not divide into blocks, arrays that do not fit each other
 ├── ImportanceError    importance missing where a type needs it, negative, not finite, or of the wrong length
 ├── NonFiniteError     NaN or Inf among the weights; names the row
 └── LibraryError       libggml-base is absent or lacks a symbol
"""


class QuantError(Exception):
    """Root of every error raised below `quant`."""


class UnknownTypeError(QuantError):
    """The type name is not one that ggml defines."""


class ShapeError(QuantError):
    """Shapes that do not fit the block layout or each other."""


class ImportanceError(QuantError):
    """Importance that is missing, malformed or not finite."""


class NonFiniteError(QuantError):
    """A weight is NaN or infinite."""


class LibraryError(QuantError):
    """The ggml library cannot be used."""
