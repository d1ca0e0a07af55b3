#!/usr/bin/env bash
# Build the environment of the BigQuery emulator: setup.sh [DIR], default .emulator. Does nothing when it is up to date.
# It is its own because the emulator runs on Python 3.13 only. Needs the package index, nothing else; Linux and macOS, x86-64 and arm64.
# Exit 3, with one line and nothing left behind, says that this machine has no Python 3.13.
set -euo pipefail
dir=${1:-.emulator}
here=${BASH_SOURCE[0]}
[[ $here == */* ]] || here=./$here
lock=${here%/*}/requirements.lock
if [ -f "$dir/requirements.lock" ] && [ "$(<"$dir/requirements.lock")" = "$(<"$lock")" ] && "$dir/bin/python" -IS -c '' 2>/dev/null; then
  exit 0
fi
python=
for candidate in "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/3.13.*/bin/python python3.13; do # a pyenv shim may exist and fail: run it
  if "$candidate" -c 'import ensurepip, sys; sys.exit(sys.version_info[:2] != (3, 13))' 2>/dev/null; then python=$candidate; break; fi
done
if [ -z "$python" ]; then
  echo "setup.sh: no Python 3.13 with venv, neither under pyenv nor as python3.13 on PATH" >&2
  exit 3
fi
"$python" -m venv --clear "$dir"
"$dir/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --only-binary=:all: -r "$lock"
"$dir/bin/python" -m pip check
cp "$lock" "$dir/requirements.lock" # last: an interrupted build is begun anew
