#!/usr/bin/env bash
# What the composite action does, on any machine: quantize, gate, reports. Settings come as environment variables.
set -euo pipefail
: "${SOURCE:?}" "${TYPE:=Q4_K_M}" "${OUTPUT:=model.gguf}" "${REPORTS:=ggufkit-report}"
mkdir -p "$REPORTS"

ggufkit quantize "$SOURCE" -o "$OUTPUT" --type "$TYPE" ${IMATRIX:+--imatrix "$IMATRIX"} --resume --force

if [ -z "${BASELINE:-}" ]; then
  # beside the output, not among the reports: those are uploaded whatever happens
  BASELINE="$OUTPUT.original.gguf"
  trap 'rm -f "$BASELINE"' EXIT
  ggufkit quantize "$SOURCE" -o "$BASELINE" --type bf16 --resume --force
fi

code=0
ggufkit gate "$OUTPUT" --baseline "$BASELINE" ${CONFIG:+--config "$CONFIG"} \
  --junit "$REPORTS/gate.xml" --markdown "$REPORTS/gate.md" --json > "$REPORTS/gate.json" || code=$?
case "$code" in
  0) verdict=pass ;;
  3) verdict=fail ;;
  4) verdict=inconclusive ;;
  *) rm -f "$REPORTS/gate.json"; exit "$code" ;;
esac
if [ -n "${GITHUB_OUTPUT:-}" ]; then
  printf 'verdict=%s\nreport=%s\n' "$verdict" "$REPORTS/gate.json" >> "$GITHUB_OUTPUT"
fi
ggufkit report "$REPORTS/gate.json" -o "$REPORTS/report.html"
echo "$verdict"
exit "$code"
