"""What a gate's config may say: read in full, refused by key with what it may be, and what it tolerates."""

from pathlib import Path

import pytest

from ggufkit.differences.structure import Finding
from ggufkit.errors import InputError
from ggufkit.proof.limits import METRICS, GateConfig, parse_config, read_config


def test_a_config_in_full() -> None:
    text = 'alpha = 0.01\nchunks = 50\nseed = 3\nignore = ["type"]\n[limits]\nkld_mean = 1\nsame_top = 0.9\n'
    expected = GateConfig(alpha=0.01, chunks=50, seed=3, ignore=("type",), limits={"kld_mean": 1.0, "same_top": 0.9})
    assert parse_config(text, "gate.toml") == expected
    assert parse_config("", "gate.toml") == GateConfig()
    assert set(GateConfig().limits) <= set(METRICS)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[limits]\nkld_mean = 'low'", "gate.toml: limits.kld_mean is 'low', wanted a number from 1e-09 to inf"),
        ("[limits]\nkld_mean = true", "limits.kld_mean is True, wanted a number"),
        ("[limits]\nkld_mean = nan", "limits.kld_mean is nan, wanted a number"),
        ("[limits]\nsame_top = 95", "limits.same_top is 95, wanted a number from 1e-09 to 1"),
        ("[limits]\nkld = 1", "unknown metric limits.kld. Known: ln_ppl_ratio, kld_mean"),
        ("limits = 3", "limits is 3, wanted a table"),
        ("limit = 3", "unknown key 'limit'. Known: alpha, chunks, seed, ignore, limits"),
        ("alpha = 2", "alpha is 2, wanted a number from 1e-06 to 0.5"),
        ("chunks = 1.5", "chunks is 1.5, wanted a whole number from 2"),
        ("seed = -1", "seed is -1, wanted a whole number from 0"),
        ("ignore = 'type'", "ignore is 'type', wanted a list of texts"),
        ("alpha = ", "gate.toml: Invalid value"),
    ],
)
def test_bad_configs_are_refused_by_key(text: str, wanted: str, tmp_path: Path) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_config(path)
    assert wanted in str(caught.value)


def test_configs_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="UTF-16, not UTF-8"):
        read_config(tmp_path / "gate.toml")
    with pytest.raises(InputError, match="No such file"):
        read_config(tmp_path / "absent.toml")


def test_a_config_saved_with_a_byte_order_mark_and_cr_lf_reads(tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_bytes(b"\xef\xbb\xbfalpha = 0.01\r\nchunks = 7\r\n")
    assert read_config(tmp_path / "gate.toml").chunks == 7


def test_a_limit_may_be_its_lowest_and_its_highest_and_no_more() -> None:
    for key, lowest, highest in (("alpha", "1e-6", "0.5"), ("chunks", "2", "100000"), ("seed", "0", str(2**32 - 1))):
        for value in (lowest, highest):
            assert getattr(parse_config(f"{key} = {value}", "g"), key) == float(value)
    for line in ("alpha = 0.51", "chunks = 1", "chunks = 100001", "chunks = true", f"seed = {2**32}"):
        with pytest.raises(InputError, match=f"g: {line.split()[0]} is "):
            parse_config(line, "g")


def test_a_finding_is_tolerated_by_its_kind_or_by_where_it_is() -> None:
    finding = Finding("type", "blk.2.ffn_up.weight", "")
    tolerated = {
        "type": True, "blk.2.*": True, "blk.2.ffn_up.weight": True,
        "blk.1.*": False, "ty*": False, "TYPE": False, "BLK.2.*": False,
    }  # fmt: skip
    for pattern, wanted in tolerated.items():
        assert GateConfig(ignore=("shape", pattern)).tolerates(finding) is wanted, pattern
    assert not GateConfig().tolerates(finding)
