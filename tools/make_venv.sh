#!/bin/sh
# make_venv.sh VENV: make VENV and fill it from requirements/dev.lock.
# Works also where Python came without ensurepip (Debian without python3-venv) and without pip.
set -eu

venv=$1
python=${PYTHON:-python3}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || {
    echo "Python 3.10 or newer is needed: name one with PYTHON=/path/to/python3 make ..." >&2
    exit 1
}

# A pip that can install into VENV although VENV has none of its own.
borrowed_pip() {
    if "$python" -m pip --version >/dev/null 2>&1; then
        echo "$python -m pip --python $venv/bin/python"
        return
    fi
    # Debian keeps pip's wheel in a package of its own, which needs no root to fetch and unpack.
    wheel=$(ls /usr/share/python-wheels/pip-*.whl 2>/dev/null | tail -n 1)
    if [ -z "$wheel" ]; then
        mkdir -p .cache/pip-wheel
        [ "$(id -u)" != 0 ] || apt-get update -q >/dev/null 2>&1 || true
        (cd .cache/pip-wheel && apt-get download -q python3-pip-whl >/dev/null 2>&1 && dpkg-deb -x ./*.deb .) || true
        wheel=$(ls .cache/pip-wheel/usr/share/python-wheels/pip-*.whl 2>/dev/null | tail -n 1)
    fi
    if [ -z "$wheel" ]; then
        echo "Neither pip nor ensurepip was found: install python3-venv (apt-get install python3-venv)." >&2
        exit 1
    fi
    echo "$venv/bin/python $wheel/pip"
}

rm -rf "$venv"
if "$python" -c 'import ensurepip' 2>/dev/null; then
    "$python" -m venv "$venv"
    pip="$venv/bin/python -m pip"
else
    "$python" -m venv --without-pip "$venv"
    pip=$(borrowed_pip)
fi

export PIP_DISABLE_PIP_VERSION_CHECK=1
echo "Installing the locked packages into $venv ..."
$pip install -q --no-deps -r requirements/dev.lock
$pip install -q --no-deps --no-build-isolation -e .
