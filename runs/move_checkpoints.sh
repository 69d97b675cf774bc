#!/usr/bin/env bash
# Checkpoints that travel in small files: `move_checkpoints.sh split RUN TO` writes RUN/checkpoints to the folder TO with each
# model.safetensors in pieces of at most 15 MiB; `move_checkpoints.sh join FROM RUN` puts them together again, and every
# hash is checked when they are loaded. Seconds.
set -euo pipefail
case "${1-} $#" in
  "split 3")
    for config in "$2"/checkpoints/*/config.json; do
      kind=$(basename "$(dirname "$config")")
      mkdir -p "$3/$kind"
      rm -f "$3/$kind"/model.safetensors.*
      cp "$config" "$3/$kind/"
      split -b 15M "$2/checkpoints/$kind/model.safetensors" "$3/$kind/model.safetensors."
    done
    ;;
  "join 3")
    for config in "$2"/*/config.json; do
      kind=$(basename "$(dirname "$config")")
      mkdir -p "$3/checkpoints/$kind"
      cp "$config" "$3/checkpoints/$kind/"
      cat "$2/$kind"/model.safetensors.* >"$3/checkpoints/$kind/model.safetensors"
    done
    ;;
  *) echo "expected: split RUN TO, or join FROM RUN" >&2; exit 2 ;;
esac
