"""The kinds of results that commands print as JSON: a versioned name each, and the type whose fields it has.

A name's number grows when a reader of the old form would go wrong; fields that are added do not change it.
Types are imported when they are asked for, so that a command loads its own only.
"""

import importlib
from typing import Any

PREFIX = "ggufkit/"

# name -> module and type
SCHEMAS = {
    "plan@1": "ggufkit.workflows.plan:PlanReport",
    "quantize@1": "ggufkit.reports.quantize_text:QuantizeResult",
    "convert-lora@1": "ggufkit.workflows.convert_lora:ConvertLoraReport",
    "calibrate@1": "ggufkit.reports.calibrate_text:CalibrateResult",
    "merge@1": "ggufkit.reports.calibrate_text:MergeResult",
    "perplexity@1": "ggufkit.workflows.perplexity:PerplexityReport",
    "compare@1": "ggufkit.proof.comparison:Comparison",
    "diff@1": "ggufkit.workflows.diff:DiffReport",
    "baseline@1": "ggufkit.workflows.baseline:BaselineReport",
    "gate@1": "ggufkit.workflows.gate:GateResult",
    "run@1": "ggufkit.reports.run_text:RunResult",
    "inspect@1": "ggufkit.workflows.inspect:InspectReport",
    "doctor@1": "ggufkit.runtime.doctor:DoctorReport",
}
_NAMES = {place: PREFIX + name for name, place in SCHEMAS.items()}


def name_of(kind: type) -> str:
    """The versioned name of results of that type: ggufkit/plan@1."""
    return _NAMES[f"{kind.__module__}:{kind.__qualname__}"]


def type_of(name: str) -> type[Any]:
    """The type behind `plan@1`."""
    module, _, kind = SCHEMAS[name].partition(":")
    found: type[Any] = getattr(importlib.import_module(module), kind)
    return found


def json_schema(name: str) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of what a command prints under that name."""
    import msgspec

    made = msgspec.json.schema(type_of(name), schema_hook=lambda kind: {"description": kind.__name__})
    top = made["$defs"].pop(made.pop("$ref").rpartition("/")[2])
    properties = {"schema": {"const": PREFIX + name}} | top.pop("properties")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": PREFIX + name,
        **{key: value for key, value in top.items() if key not in ("title", "required")},
        "properties": properties,
        "required": ["schema", *top.get("required", [])],
        "$defs": made["$defs"],
    }
