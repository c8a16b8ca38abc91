"""Arithmetic of quantization: arrays in, bytes or numbers out.

Opens no file, knows no tensor name, no model and no command. When a number is wrong, look here; when a file is
wrong, look in `ggufkit`.
"""

from quant.codec import Encoder, dequantize, quantize
from quant.errors import QuantError
from quant.types import TYPE_NAMES, QuantType, quant_type, quant_type_of

__all__ = ["TYPE_NAMES", "Encoder", "QuantError", "QuantType", "dequantize", "quant_type", "quant_type_of", "quantize"]
