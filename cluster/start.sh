#!/bin/sh
# Start Ray, MLflow and the agent on this machine, in the background. Arguments go to `llmagentos up`:
#   cluster/start.sh --config cluster/config/small.yaml serve.port=8080
# Paths in them, and the home where none is named, are those of the folder it is called in.
set -eu
checkout=$(CDPATH= cd -- "$(dirname "$0")/.." && pwd)
if [ ! -x "$checkout/.venv/bin/llmagentos" ]; then
    make -C "$checkout" install
fi
exec "$checkout/.venv/bin/llmagentos" up --detach "$@"
