#!/usr/bin/env bash
# Installs what the tests of the page need beyond Python, on Debian and its kin: Chromium.
set -euo pipefail

command -v chromium >/dev/null && exit 0

fail() {
    echo "tests/reports/install.sh: $1" >&2
    exit 1
}
command -v apt-get >/dev/null || fail "no apt-get here: install chromium by other means"
[ "$(id -u)" -eq 0 ] || fail "installing chromium needs root: sudo tests/reports/install.sh"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -qq -y --no-install-recommends chromium >/dev/null
