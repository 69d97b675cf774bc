#!/usr/bin/env bash
# Every method but ReC-TTT (whose source model takes a quarter of an hour) on CIFAR-10, five corruptions at severity 5,
# one seed: the sign and rough size of each gain over Source. CIFAR-10 is looked for in $CROSSTASK_DATA and the cache,
# then fetched. About 30 minutes on two CPU cores; a kill costs the cell under way.
set -euo pipefail
cd "$(dirname "$0")/.."
.venv/bin/crosstask run runs/cifar10-all.toml
