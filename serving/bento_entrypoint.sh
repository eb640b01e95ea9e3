#!/bin/sh
# `bentoml containerize` runs this: the server of the Bento's own, which is quicker than BentoML's and knows its keys.
if [ "${1:-}" = serve ]; then shift; fi
unset PYTHONSAFEPATH  # by which Python would not look for the server in its own folder
cd "$BENTO_PATH/src" && exec python -m serving --host 0.0.0.0 --port "${PORT:-3000}" "$@"
