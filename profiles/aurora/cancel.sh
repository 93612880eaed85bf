#!/bin/sh
# Cancel PBS jobs: `cancel.sh ID...`. Those that have ended already are no error.
for job in "$@"; do
    qdel "$job" 2>/dev/null || true
done
