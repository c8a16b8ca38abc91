"""Layouts against the decoder: levels in, values out, headers untouched."""

import numpy as np
import pytest

import quant
from quant.errors import UnknownTypeError
from quant.grid import _GRIDS, grid_of

TYPES = sorted(_GRIDS)


def encoded(name: str, n_rows: int = 6) -> tuple[quant.QuantType, np.ndarray]:
    qtype = quant.quant_type(name)
    w = np.random.default_rng(5).normal(size=(n_rows, qtype.block_size)).astype(np.float32)
    w += np.linspace(-2, 2, n_rows, dtype=np.float32)[:, None]
    return qtype, quant.quantize(w, qtype, encoder=quant.Encoder.GGML)


@pytest.mark.parametrize("name", TYPES)
def test_levels_survive_packing(name: str) -> None:
    qtype, blocks = encoded(name)
    grid = grid_of(qtype)
    assert np.array_equal(grid.pack(blocks, grid.unpack(blocks)), blocks)
    level = np.random.default_rng(6).integers(0, grid.n_level, (len(blocks), qtype.block_size), dtype=np.uint8)
    packed = grid.pack(blocks, level)
    assert np.array_equal(grid.unpack(packed), level)


@pytest.mark.parametrize("name", TYPES)
def test_values_are_the_decoders(name: str) -> None:
    qtype, blocks = encoded(name)
    grid = grid_of(qtype)
    level = np.random.default_rng(7).integers(0, grid.n_level, (len(blocks), qtype.block_size), dtype=np.uint8)
    scale, offset = grid.scales(blocks)
    got = scale * grid.values[level] + offset
    want = quant.dequantize(grid.pack(blocks, level), qtype)
    np.testing.assert_allclose(got, want, atol=2e-6 * np.abs(want).max())


@pytest.mark.parametrize("name", TYPES)
def test_float16_numbers_lie_where_they_are_said_to(name: str) -> None:
    qtype, blocks = encoded(name)
    grid = grid_of(qtype)
    d, dmin = grid.halves(blocks)
    assert np.array_equal(grid.with_halves(blocks, d, dmin), blocks)
    doubled = quant.dequantize(grid.with_halves(blocks, 2 * d, 2 * dmin), qtype)
    np.testing.assert_allclose(doubled, 2 * quant.dequantize(blocks, qtype), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS"])
def test_codes_of_sub_blocks_are_the_decoders(name: str) -> None:
    qtype, blocks = encoded(name, 16)
    grid = grid_of(qtype)
    level = grid.unpack(blocks)
    for codes in (grid.scale_codes, grid.min_codes):
        if codes is None:
            continue
        low, high = codes.range
        wanted = np.random.default_rng(8).integers(low, high + 1, (len(blocks), codes.n_sub), dtype=np.int32)
        put = codes.put(blocks, wanted)
        assert np.array_equal(codes.of(put), wanted)
        assert np.array_equal(grid.unpack(put), level)
        assert np.array_equal(codes.put(put, codes.of(blocks)), blocks)
        scale, offset = grid.scales(put)
        np.testing.assert_allclose(
            scale * grid.values[level] + offset, quant.dequantize(put, qtype), rtol=1e-5, atol=1e-6
        )


def test_types_without_a_grid_are_named() -> None:
    with pytest.raises(UnknownTypeError, match=r"IQ2_XS has no error feedback. Types that have: IQ4_NL"):
        grid_of(quant.quant_type("IQ2_XS"))
