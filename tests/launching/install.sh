#!/usr/bin/env bash
# Installs what the tests of clusters need beyond Python, on Debian and its kin: Slurm, munge, a C++ compiler, iproute2.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin # where daemons are

missing=()
needs() { command -v "$1" >/dev/null || missing+=("$2"); }
needs slurmctld slurm-wlm
needs munged munge
needs g++ g++
needs ip iproute2
[ ${#missing[@]} -gt 0 ] || exit 0

fail() {
    echo "tests/launching/install.sh: $1" >&2
    exit 1
}
command -v apt-get >/dev/null || fail "no apt-get here: install ${missing[*]} by other means"
[ "$(id -u)" -eq 0 ] || fail "installing ${missing[*]} needs root: sudo tests/launching/install.sh"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
