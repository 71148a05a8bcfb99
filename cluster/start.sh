#!/bin/sh
# Start Ray, MLflow and the agent on this machine, in the background. Arguments go to `llmagentos up`:
#   cluster/start.sh --config cluster/config/small.yaml serve.port=8080
set -eu
cd "$(dirname "$0")/.."
if [ ! -x .venv/bin/llmagentos ]; then
    make install
fi
exec .venv/bin/llmagentos up --detach "$@"
