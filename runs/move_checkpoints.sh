#!/usr/bin/env bash
# Checkpoints that travel in small files: `move_checkpoints.sh split RUN TO` writes RUN/checkpoints to the folder TO with each
# model.safetensors in pieces of at most 15 MiB; `move_checkpoints.sh join FROM RUN` puts them together again, and every
# hash is checked when they are loaded. Seconds.
set -euo pipefail
shopt -s nullglob
case "${1-} $#" in
  "split 3") from=$2/checkpoints to=$3 ;;
  "join 3") from=$2 to=$3/checkpoints ;;
  *) echo "expected: split RUN TO, or join FROM RUN" >&2; exit 2 ;;
esac
configs=("$from"/*/config.json)
[ ${#configs[@]} -gt 0 ] || { echo "expected checkpoints in $from, and there are none" >&2; exit 2; }
for config in "${configs[@]}"; do
  kind=$(basename "$(dirname "$config")")
  mkdir -p "$to/$kind"
  cp "$config" "$to/$kind/"
  if [ "$1" = split ]; then
    rm -f "$to/$kind"/model.safetensors.*
    split -b 15M "$from/$kind/model.safetensors" "$to/$kind/model.safetensors."
  else
    cat "$from/$kind"/model.safetensors.* >"$to/$kind/model.safetensors"
  fi
done
