"""Rows that do not divide into blocks of the wanted type get another type, as in llama.cpp.

Knows which type stands in for which. Source: llama-quant.cpp tensor_type_fallback.
"""

from quant import QuantType, quant_type

# Types in blocks of 256, and the type in blocks of 32 that is closest above in quality.
SUBSTITUTES = {
    "IQ1_S": "IQ4_NL",
    "IQ1_M": "IQ4_NL",
    "IQ2_XXS": "IQ4_NL",
    "IQ2_XS": "IQ4_NL",
    "IQ2_S": "IQ4_NL",
    "IQ3_XXS": "IQ4_NL",
    "IQ3_S": "IQ4_NL",
    "IQ4_XS": "IQ4_NL",
    "Q2_K": "Q4_0",
    "Q3_K": "Q4_0",
    "TQ1_0": "Q4_0",
    "TQ2_0": "Q4_0",
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}


def fitting(wanted: QuantType, n_per_row: int) -> tuple[QuantType, str | None]:
    """`wanted`, or what stands in for it in rows of `n_per_row`, with the reason; None where nothing changed."""
    if n_per_row % wanted.block_size == 0:
        return wanted, None
    substitute = quant_type(SUBSTITUTES.get(wanted.name, wanted.name))
    if n_per_row % substitute.block_size:
        substitute = quant_type("F16")
    return substitute, f"{n_per_row} columns, {wanted} needs a multiple of {wanted.block_size}: {substitute} instead"
