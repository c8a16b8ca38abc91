#!/usr/bin/env bash
# What the composite action does, on any machine: quantize, gate, reports. Settings come as environment variables.
# Whatever they hold is a value: options are spelled --name=value, operands follow --.
set -euo pipefail
: "${SOURCE:?}" "${TYPE:=Q4_K_M}" "${OUTPUT:=model.gguf}" "${REPORTS:=ggufkit-report}"
: "${IMATRIX:=}" "${BASELINE:=}" "${CONFIG:=}"

for name in SOURCE TYPE OUTPUT REPORTS IMATRIX BASELINE CONFIG; do
  if [[ "${!name}" == *[[:cntrl:]]* ]]; then
    echo "$name holds a line break or another control character. Name it without." >&2
    exit 2
  fi
done
mkdir -p -- "$REPORTS"

ggufkit quantize --output="$OUTPUT" --type="$TYPE" ${IMATRIX:+--imatrix="$IMATRIX"} --resume --force -- "$SOURCE"

if [ -z "$BASELINE" ]; then
  # beside the output, not among the reports: those are uploaded whatever happens
  BASELINE="$OUTPUT.original.gguf"
  trap 'rm -f -- "$BASELINE"' EXIT
  ggufkit quantize --output="$BASELINE" --type=bf16 --resume --force -- "$SOURCE"
fi

code=0
# verdict and report become outputs of the step by the gate itself: a gate that did not run has none
ggufkit gate --baseline="$BASELINE" ${CONFIG:+--config="$CONFIG"} --output="$REPORTS/gate.json" \
  --junit="$REPORTS/gate.xml" --markdown="$REPORTS/gate.md" --github -- "$OUTPUT" || code=$?
case "$code" in
  0) verdict=pass ;;
  3) verdict=fail ;;
  4) verdict=inconclusive ;;
  *) exit "$code" ;;
esac
ggufkit report --output="$REPORTS/report.html" -- "$REPORTS/gate.json"
echo "$verdict"
exit "$code"
