#!/usr/bin/env bash
# setup.sh DIR: makes DIR a virtual environment in which `import ding.interaction` works.
# Does nothing, and needs no network, when it is there already and requirements.txt has not changed.
# PYTHON names the interpreter to start from (default: python3.11, else python3).
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: $0 DIR" >&2; exit 2; }
directory=$1
requirements=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/requirements.txt
installed=$directory/requirements.installed # written last: what a complete environment was made from

usable() { "$directory/bin/python" -c 'import ding.interaction' 2>/dev/null; }

if cmp -s "$requirements" "$installed" && usable; then exit 0; fi
if [ -e "$directory" ] && [ ! -e "$directory/pyvenv.cfg" ] && [ -n "$(ls -A "$directory")" ]; then
    echo "$0: $directory exists and is no virtual environment" >&2
    exit 1
fi
"${PYTHON:-$(command -v python3.11 || command -v python3)}" -m venv --clear "$directory"
"$directory/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$requirements"
"$directory/bin/python" -c 'import ding.interaction'
cp "$requirements" "$installed"
