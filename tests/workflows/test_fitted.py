"""Calibrate, choose and encode in one command, on the shipped model: closer than importance alone, on target."""

import dataclasses
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import quant
from ggufkit.architectures.source import open_source
from ggufkit.encoding.destination import copy_path
from ggufkit.encoding.settings import QuantizeSettings
from ggufkit.errors import CutError, InputError, OutputError, UsageError
from ggufkit.fitting import cost
from ggufkit.fitting.corpus import Corpus
from ggufkit.fitting.cost import EffortCost, shapes_of
from ggufkit.fitting.encoders import Effort
from ggufkit.fitting.evidence import Evidence
from ggufkit.fitting.prober import Prober
from ggufkit.fitting.sources.layer_by_layer import Stream
from ggufkit.fitting.sources.whole_model import WholeModel
from ggufkit.fitting.walks import moments_nbytes, plan_walks, walks_nbytes
from ggufkit.formats.gguf_reader import GgufFile
from ggufkit.formats.tensor import TensorRef
from ggufkit.formats.unfinished import journal_path, partial_path
from ggufkit.progress import Progress
from ggufkit.recipes.search import Target
from ggufkit.workflows.calibrate import CalibrateSettings, calibrate
from ggufkit.workflows.fit_plan import opened
from ggufkit.workflows.fit_settings import FitSettings
from ggufkit.workflows.fitted import FitReport, quantize_fitted
from ggufkit.workflows.quantize import quantize
from tests.architectures import tiny
from tests.workflows.faults import only, rewrite

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "models" / "tiny-mixtral"
TEXT = (ROOT / "ggufkit" / "data" / "text" / "calibration.txt").read_text()
N_TOKENS = 20 * 512


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("base") / "bf16.gguf"
    quantize(QuantizeSettings(source=SOURCE, output=out, recipe="BF16", encoder=quant.Encoder.GGML, threads=1))
    return out


@pytest.fixture(scope="module")
def corpus(base: Path) -> Corpus:
    return Corpus(base, TEXT, n_tokens=N_TOKENS, threads=1)


@pytest.fixture(scope="module")
def prober(corpus: Corpus) -> Iterator[Prober]:
    with closing(Prober(corpus, 8)) as open_prober:
        yield open_prober


def fit(base: Path, output: Path, effort: Effort, **changes: object) -> FitReport:
    job = QuantizeSettings(source=base, output=output, recipe="Q3_K_M", threads=1, force=True)
    settings = FitSettings(quantize=job, effort=effort, n_tokens=N_TOKENS, n_probe=4)
    return quantize_fitted(dataclasses.replace(settings, **changes))


def differences(base: Path, other: Path) -> dict[str, np.ndarray]:
    """Quantized minus original, by tensor, (n_expert, n_rows, n_per_row)."""
    first, second = open_source(base), open_source(other, allow_requantize=True)
    tensors = {t.name: t for t in second.tensors}
    return {
        t.name: np.stack([tensors[t.name].rows(e, 0, t.n_rows) - t.rows(e, 0, t.n_rows) for e in range(t.n_expert)])
        for t in first.tensors
        if t.name in shapes_of(first)
    }


def test_more_effort_is_closer(base: Path, prober: Prober, tmp_path: Path) -> None:
    kld = {}
    for effort in (Effort.FAST, Effort.BALANCED):
        report = fit(base, tmp_path / f"{effort}.gguf", effort)
        kld[effort] = prober.kld(differences(base, tmp_path / f"{effort}.gguf"))[0]
        assert report.found is None
    assert report.rows_fitted > 0 == report.rows_plain
    assert kld[Effort.BALANCED] < 0.8 * kld[Effort.FAST]


def test_the_file_says_what_it_owes_to_calibration(base: Path, tmp_path: Path) -> None:
    fit(base, tmp_path / "out.gguf", Effort.FAST)
    with closing(GgufFile.open(tmp_path / "out.gguf")) as file:
        assert file.value("ggufkit.fit.effort") == "fast"
        assert len(file.value("ggufkit.fit.text_sha256")) == 64
        assert file.value("ggufkit.fit.n_tokens") == N_TOKENS
        least, median = (file.value(f"ggufkit.fit.expert_tokens.{which}") for which in ("least", "median"))
    assert len(least) == 4 and all(0 < a < b < N_TOKENS for a, b in zip(least, median, strict=True))


def test_a_plan_is_made_without_running_the_model(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> None:
        raise AssertionError("the model was run")

    monkeypatch.setattr(WholeModel, "observe", run)
    job = QuantizeSettings(source=base, output=tmp_path / "out.gguf", recipe="IQ2_XXS", threads=1)
    for effort in Effort:
        with opened(FitSettings(quantize=job, effort=effort)) as fit:
            fit.check()
            assert fit.plain.plan.metadata[-1].value == [0, 0, 0, 0]  # tokens of experts: not known before


@pytest.mark.parametrize(("effort", "said"), [(Effort.FAST, "ggml"), (Effort.BALANCED, "ggufkit")])
def test_the_file_says_whose_encoder_made_it(effort: Effort, said: str, base: Path, tmp_path: Path) -> None:
    """Error feedback is ggufkit's own; fast with ggml's encoder is what llama-imatrix and llama-quantize would give."""
    ours = QuantizeSettings(source=base, output=tmp_path / "ours.gguf", recipe="Q4_0", threads=1)
    ggml = dataclasses.replace(ours, output=tmp_path / "ggml.gguf", encoder=quant.Encoder.GGML)
    for job in (ours, ggml):
        quantize_fitted(FitSettings(quantize=job, effort=effort, n_tokens=8 * 512))
    with closing(GgufFile.open(ggml.output)) as file, closing(GgufFile.open(ours.output)) as other:
        assert file.value("ggufkit.encoder") == said
        same = [a.raw_rows(0, a.n_rows).tobytes() == b.raw_rows(0, b.n_rows).tobytes()
                for a, b in zip(file.tensors, other.tensors, strict=True) if a.dtype == "Q4_0"]  # fmt: skip
    assert all(same) if said == "ggufkit" else not any(same)


@pytest.mark.parametrize("effort", [Effort.FAST, Effort.BALANCED])
def test_weights_that_are_not_finite_are_stored_where_allowed(effort: Effort, base: Path, tmp_path: Path) -> None:
    """One row of the output matrix, which no activation passes through."""

    def spoilt(ref: TensorRef, raw: np.ndarray) -> np.ndarray:
        raw[5, :2] = np.frombuffer(b"\xc0\x7f", np.uint8)  # a bf16 NaN
        return raw

    bad = rewrite(base, tmp_path / "bad.gguf", edit=only("output.weight", spoilt))
    out = {}
    for source, name in ((base, "good"), (bad, "bad")):
        job = QuantizeSettings(source=source, output=tmp_path / f"{name}-Q.gguf", recipe="Q4_0", threads=1)
        fit = FitSettings(quantize=job, effort=effort, n_tokens=8 * 512)
        if source == bad:
            with pytest.raises(InputError, match=r"output.weight .*row 5 column 0 is nan.*--allow-nonfinite"):
                quantize_fitted(fit)
            fit = dataclasses.replace(fit, quantize=dataclasses.replace(job, allow_nonfinite=True))
        quantize_fitted(fit)
        with closing(GgufFile.open(job.output)) as file:
            out[name] = {t.name: t.raw_rows(0, t.n_rows) for t in file.tensors}
    if effort is not Effort.FAST:  # logits that are not finite weigh no tokens, so the rest is fitted otherwise
        assert out["good"].keys() == out["bad"].keys()
        return
    rows = np.arange(len(out["good"]["output.weight"])) != 5
    for name, raw in out["good"].items():
        kept = rows if name == "output.weight" else slice(None)
        assert np.array_equal(raw[kept], out["bad"][name][kept]), name


def test_coverage_is_the_same_at_every_effort(base: Path, tmp_path: Path) -> None:
    fast, balanced = (fit(base, tmp_path / f"{effort}.gguf", effort) for effort in (Effort.FAST, Effort.BALANCED))
    rows = zip(fast.coverage.layers, balanced.coverage.layers, strict=True)
    assert all(a.layer == b.layer and np.array_equal(a.counts, b.counts) for a, b in rows)
    assert sum(row.counts.sum() for row in fast.coverage.layers) == 4 * 2 * N_TOKENS


def cost_of(settings: FitSettings) -> EffortCost:
    with opened(settings) as plan:
        return plan.cost


def least_memory(settings: FitSettings) -> int:
    """The smallest cap that is accepted, read from the refusal of a smaller one."""
    with pytest.raises(UsageError) as refused:
        cost_of(dataclasses.replace(settings, quantize=dataclasses.replace(settings.quantize, max_memory=1 << 20)))
    found = re.search(r"needs (\d+)MiB of memory for this model, --max-memory is 1MiB", str(refused.value))
    assert found
    return int(found[1]) << 20


def test_same_bytes_whatever_the_threads_and_walks(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "_MOST_TAPE_NBYTES", 1 << 20)  # so that moments, not gradients, decide the least memory
    hashes, n_walks = set(), []
    for threads, least in ((1, False), (2, True)):
        job = QuantizeSettings(source=base, output=tmp_path / f"{threads}.gguf", recipe="Q2_K", threads=threads)
        settings = FitSettings(quantize=job, n_tokens=8 * 512)
        if least:
            settings = dataclasses.replace(
                settings, quantize=dataclasses.replace(job, max_memory=least_memory(settings))
            )
        n_walks.append(quantize_fitted(settings).n_walks)
        hashes.add((tmp_path / f"{threads}.gguf").read_bytes())
    assert n_walks[0] == 1 and n_walks[1] > 1
    assert len(hashes) == 1


def test_fast_is_what_calibrate_and_then_imatrix_give(base: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text(TEXT[:40_000])
    out = tmp_path / "imatrix.gguf"
    calibrate(CalibrateSettings(model=base, output=out, text=(text,), process_output=True, threads=1))
    job = QuantizeSettings(source=base, output=tmp_path / "one.gguf", recipe="Q3_K_M", threads=1, provenance=False)
    quantize_fitted(FitSettings(quantize=job, effort=Effort.FAST, text=(text,), n_tokens=None))
    quantize(dataclasses.replace(job, output=tmp_path / "two.gguf", imatrix=tmp_path / "imatrix.gguf"))
    assert differences_between(tmp_path / "one.gguf", tmp_path / "two.gguf") < 0.002


def differences_between(one: Path, other: Path) -> float:
    """Share of the bytes that differ: sums in float32 files round importance."""
    a, b = (np.frombuffer(path.read_bytes(), np.uint8) for path in (one, other))
    return float((a != b).mean())


def test_a_checkpoint_is_calibrated_on_a_quick_file_that_goes_away(tmp_path: Path) -> None:
    job = QuantizeSettings(source=SOURCE, output=tmp_path / "out.gguf", recipe="Q4_K_S", threads=1)
    report = quantize_fitted(FitSettings(quantize=job, effort=Effort.FAST, n_tokens=8 * 512, by_layer=False))
    assert report.n_walks == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]
    with closing(GgufFile.open(tmp_path / "out.gguf")) as file:
        assert file.value("ggufkit.fit.quick_type") == "BF16"


class StopError(Exception):
    """Stands for Ctrl-C or a crash."""


@pytest.mark.parametrize("effort", [Effort.FAST, Effort.BALANCED])
def test_a_fitted_file_is_resumed_to_the_same_bytes(effort: Effort, base: Path, tmp_path: Path) -> None:
    job = QuantizeSettings(source=base, output=tmp_path / "whole.gguf", recipe="Q3_K_M", threads=1)
    settings = FitSettings(quantize=job, effort=effort, n_tokens=8 * 512)
    quantize_fitted(settings)

    def stop(p: Progress) -> None:
        if "encoding" in p.what and "blk.1" in p.what:
            raise StopError

    out = dataclasses.replace(job, output=tmp_path / "out.gguf")
    with pytest.raises(StopError):
        quantize_fitted(dataclasses.replace(settings, quantize=out), stop)
    with pytest.raises(OutputError, match=r"holds an unfinished run .* Continue it with --resume"):
        quantize_fitted(dataclasses.replace(settings, quantize=out))
    report = quantize_fitted(dataclasses.replace(settings, quantize=dataclasses.replace(out, resume=True)))
    assert report.quantized.resumed_nbytes > 0
    assert out.output.read_bytes() == job.output.read_bytes()


def test_what_cannot_be_written_is_said_before_the_model_is_run(base: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"here already")
    seen: list[str] = []
    job = QuantizeSettings(source=base, output=out, recipe="Q3_K_M", threads=1)
    with pytest.raises(OutputError, match="exists. Replace it with --force"):
        quantize_fitted(FitSettings(quantize=job), lambda p: seen.append(p.what))
    assert not seen


def test_a_quick_file_that_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    copy = copy_path(out, "calibration")
    for path in (copy, partial_path(copy), journal_path(copy)):
        path.write_bytes(b"left over")
    job = QuantizeSettings(source=SOURCE, output=out, recipe="Q4_K_S", threads=1)
    quantize_fitted(FitSettings(quantize=job, effort=Effort.FAST, n_tokens=8 * 512))
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


def test_a_model_that_cannot_be_cut_is_run_as_a_whole_and_says_so(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disagree(*_: object, **__: object) -> None:
        raise CutError("this llama model cannot be run layer by layer: alone, layer 2 gives another output")

    monkeypatch.setattr("ggufkit.fitting.sources.layer_by_layer.check_agreement", disagree)
    report = fit(base, tmp_path / "out.gguf", Effort.FAST)
    assert report.quantized.notes[-1].endswith("alone, layer 2 gives another output. It was run as a whole.")
    assert [path.name for path in tmp_path.iterdir()] == ["out.gguf"]


@pytest.mark.parametrize("changes", [{"effort": Effort.FAST}, {"target": Target(bpw=4.0)}, {"by_layer": False}])
def test_a_stream_that_cannot_be_had_is_refused(changes: dict[str, object], base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--stream stored goes with --effort balanced or best"):
        fit(base, tmp_path / "out.gguf", **({"effort": Effort.BALANCED} | changes), stream=Stream.STORED)
    assert not list(tmp_path.iterdir())


def test_later_layers_see_what_the_stored_ones_give(base: Path, tmp_path: Path) -> None:
    for stream in Stream:
        job = QuantizeSettings(source=base, output=tmp_path / f"{stream}.gguf", recipe="Q2_K", threads=1)
        quantize_fitted(FitSettings(quantize=job, n_tokens=8 * 512, stream=stream))
    raw = {}
    for stream in Stream:
        with closing(GgufFile.open(tmp_path / f"{stream}.gguf")) as file:
            raw[stream] = {t.name: t.raw_rows(0, t.n_rows).tobytes() for t in file.tensors}
    same = {name for name, one in raw[Stream.ORIGINAL].items() if raw[Stream.STORED][name] == one}
    assert "blk.0.attn_q.weight" in same and "blk.0.ffn_down_exps.weight" in same
    assert not {"blk.1.attn_q.weight", "blk.3.ffn_down_exps.weight"} & same


def test_a_text_without_a_part_to_judge_on_is_refused(base: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    settings = FitSettings(quantize=QuantizeSettings(source=base, output=tmp_path / "out.gguf"), n_tokens=4 * 512)
    with pytest.raises(InputError, match="the calibration text has 4 chunks of 512 tokens; fitting needs more than 4"):
        quantize_fitted(settings, told.append)
    assert not told, "said before the work, not after it"


def test_two_targets_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one of --target-size"):
        fit(base, tmp_path / "out.gguf", Effort.FAST, target=Target(nbytes=4_000_000, kld=0.1))


@pytest.mark.parametrize("target", [Target(nbytes=1_000_000), Target(bpw=1.5)])
def test_a_size_out_of_reach_is_said_before_the_model_is_run(target: Target, base: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    job = QuantizeSettings(source=base, output=tmp_path / "out.gguf", threads=1)
    with pytest.raises(UsageError, match=r"out of reach: the types at hand give \d+ to \d+ bytes"):
        quantize_fitted(FitSettings(quantize=job, target=target), lambda p: seen.append(p.what))
    assert not seen


def test_a_patched_weight_speaks_as_the_file_does(base: Path, prober: Prober) -> None:
    model = open_source(base)
    nothing = {name: np.zeros((1, 1, 1), np.float32) for name in ()}
    assert prober.kld(nothing)[0] == pytest.approx(0.0, abs=1e-9)
    tensor = next(t for t in model.tensors if t.name == "blk.0.ffn_down_exps.weight")
    w = np.stack([tensor.rows(e, 0, tensor.n_rows) for e in range(tensor.n_expert)])
    small, large = (prober.kld({tensor.name: -share * w})[0] for share in (0.02, 0.3))
    assert 0 < small < large


def test_walks_keep_within_the_memory() -> None:
    shapes = {"output.weight": (1, 256)}
    for layer in range(10):
        names = ("attn_k", "attn_output", "attn_q", "ffn_down_exps", "ffn_gate_exps", "ffn_up_exps")
        shapes |= {f"blk.{layer}.{name}.weight": (8 if "exps" in name else 1, 256) for name in names}
    dense, experts = moments_nbytes((1, 256)), moments_nbytes((8, 256))
    layer = 3 * dense + 3 * experts
    for room in (2 * experts, 3 * layer, 4 * layer, 1 << 40):
        made = plan_walks(shapes, room)
        assert list(shapes) == [name for names in made for name in sorted(names, key=list(shapes).index)]
        assert walks_nbytes(made, shapes) <= room
    assert len(made) == 1
    assert dense < experts and plan_walks(shapes, 0) == [frozenset((name,)) for name in shapes]


def test_the_least_memory_is_enough() -> None:
    shapes = {"output.weight": (1, 1024), "blk.0.attn_q.weight": (1, 1024)}
    shapes |= {"blk.0.ffn_down_exps.weight": (8, 3584), "blk.0.ffn_up_exps.weight": (8, 256)}
    least = walks_nbytes(plan_walks(shapes, 0), shapes)
    for room in (least, least + 1, least + moments_nbytes((1, 1024)) - 1, least + moments_nbytes((1, 1024))):
        assert walks_nbytes(plan_walks(shapes, room), shapes) <= room


def test_costs_are_said_beforehand(base: Path) -> None:
    job = QuantizeSettings(source=base, output=base, recipe="Q4_K_M", threads=2)
    cost = {effort: cost_of(FitSettings(quantize=job, effort=effort)) for effort in Effort}
    assert all(cost[effort].n_walks == 1 for effort in Effort)
    assert cost[Effort.FAST].encode_seconds < cost[Effort.BALANCED].encode_seconds < cost[Effort.BEST].encode_seconds
    assert cost[Effort.FAST].peak_nbytes < cost[Effort.BALANCED].peak_nbytes


def test_a_shared_expert_has_inputs_of_its_own(tmp_path: Path) -> None:
    """It multiplies what the routed experts do, and sees every token."""
    source = tiny.build("qwen1.5-moe-a2.7b", tmp_path)
    quantize(QuantizeSettings(source=source, output=tmp_path / "f32.gguf", recipe="F32", threads=1))
    model = open_source(source)
    corpus = Corpus(tmp_path / "f32.gguf", TEXT[:20_000], n_ctx=64, threads=1)
    evidence = Evidence(WholeModel(corpus), shapes_of(model))
    routed, shared = (evidence.of(f"blk.0.ffn_gate_{which}.weight") for which in ("exps", "shexp"))
    assert routed is not None and shared is not None
    assert len(routed.fit.counts) > 1 and len(shared.fit.counts) == 1
    n_used = model.hparams.n_expert_used
    assert shared.fit.counts.sum() * n_used == routed.fit.counts.sum()
    n = routed.fit.counts
    traces = [np.trace(routed.fit.mean(expert)[0]) for expert in range(len(n))]
    np.testing.assert_allclose(np.trace(shared.fit.mean(0)[0]), np.dot(n, traces) / n.sum(), rtol=1e-3)
