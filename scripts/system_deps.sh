#!/usr/bin/env bash
# Finds what pip cannot install, and installs it with apt-get where that is possible (root on Debian or Ubuntu).
# Elsewhere it prints the command to run and goes on: without these, features are off.
#
#   PYTHON=python3.12 scripts/system_deps.sh
set -euo pipefail

python=${PYTHON:-python3}
packages=()

need() { # need <Debian package> <what is off without it>
  packages+=("$1")
  echo "missing: $1 ($2)" >&2
}

command -v make >/dev/null || need make "the targets of the Makefile"
command -v dot >/dev/null || need graphviz "pictures of graphs, drawn by dot"
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null ||
  need chromium "tests of the interactive page, in a real browser"
command -v "${CXX:-g++}" >/dev/null || need g++ "CPU code, compiled by Inductor"

if version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); then
  "$python" -c 'import ensurepip, venv' 2>/dev/null || need "python$version-venv" "a virtual environment in .venv"
  "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
    need "python$version-dev" "CPU code, which includes Python.h"
else
  echo "missing: $python; install Python 3.11 or newer" >&2
fi

[ ${#packages[@]} -eq 0 ] && exit 0

install="apt-get update && apt-get install -y --no-install-recommends ${packages[*]}"
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
  echo "running: $install" >&2
  apt-get update -qq &&
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null ||
    echo "apt-get failed; going on without: ${packages[*]}" >&2
elif command -v apt-get >/dev/null; then
  echo "to install: sudo sh -c '$install'" >&2
elif command -v brew >/dev/null; then
  echo "to install: xcode-select --install; brew install graphviz" >&2
else
  echo "to install: the packages of your system that hold what is missing" >&2
fi
