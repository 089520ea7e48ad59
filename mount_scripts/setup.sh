# Sourced by quickstart, run_tests and .ci/run: makes this checkout able to run, and is quiet when it is.
#
# Sets: root (the checkout), python (its interpreter).
# Leaves: .venv in the checkout. Packages of the system are installed if, and only if, some are missing.

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
python=$venv/bin/python
stamp=$venv/heliosfs.stamp
base=/usr/bin/python3 # never another one: it may lie where unprivileged users can't read it
packages=(python3-venv python3-dev gcc pkg-config libfuse3-dev fuse3 bubblewrap git attr rsync sqlite3)

say() { printf '%s\n' "$*" >&2; }

# Run a command with its output in a file; show the file's end if the command fails.
quietly() {
    local what=$1 log status=0
    shift
    log=$(mktemp "${TMPDIR:-/tmp}/heliosfs-setup.XXXXXX")
    say "setup: $what ..."
    "$@" >"$log" 2>&1 </dev/null || status=$?
    if ((status != 0)); then
        say "setup: $what failed (exit $status): $*"
        tail -n 40 "$log" >&2
        say "setup: the whole output is in $log"
        return "$status"
    fi
    rm -f "$log"
}

missing_packages() {
    local package state
    for package in "${packages[@]}"; do
        state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) || state=absent
        [[ $state == installed ]] || printf '%s\n' "$package"
    done
}

# One call of dpkg-query in the usual case that all is there.
all_packages_there() {
    local states
    states=$(dpkg-query -W -f='${db:Status-Status}\n' "${packages[@]}" 2>/dev/null) || return 1
    [[ $(grep -cx installed <<<"$states") == "${#packages[@]}" ]]
}

install_packages() {
    if ! command -v dpkg-query >/dev/null; then
        say "setup: this system has no dpkg; install by hand what these packages of Debian hold:"
        say "    ${packages[*]}"
        command -v fusermount3 >/dev/null && command -v bwrap >/dev/null && command -v gcc >/dev/null && return
        exit 1
    fi
    all_packages_there && return
    local missing=() prefix=()
    mapfile -t missing < <(missing_packages)
    if ((EUID != 0)); then
        if ! command -v sudo >/dev/null || ! { sudo -n true 2>/dev/null || { [[ -t 0 ]] && sudo -v; }; }; then
            say "setup: packages are missing; as root, run this line, then try again:"
            say "    apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
            exit 1
        fi
        prefix=(sudo)
    fi
    quietly "apt-get update" "${prefix[@]}" env DEBIAN_FRONTEND=noninteractive apt-get update
    quietly "apt-get install ${missing[*]}" "${prefix[@]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y --no-install-recommends "${missing[@]}"
}

# What the environment was made for: it is used again only for exactly the same.
wanted_stamp() {
    (
        cd "$root"
        printf '%s %s\n' "$root" "$(readlink -f "$base")"
        cat pyproject.toml mount_scripts/constraints.txt mount_scripts/build-constraints.txt
    ) | sha256sum
}

# An environment knows its own path (moved or copied ones don't work) and its interpreter (which an upgrade
# of the system can take away).
venv_works() {
    [[ -x $python && -x $venv/bin/pip ]] || return 1
    [[ $(head -n 1 "$venv/bin/pip") == "#!$venv/bin/"* || $(sed -n 2p "$venv/bin/pip") == *"$venv/bin/"* ]] || return 1
    [[ $("$python" -c 'import sys; print(sys.prefix, sys.base_prefix != sys.prefix)' 2>/dev/null) == "$venv True" ]]
}

install_venv() {
    local wanted
    wanted=$(wanted_stamp)
    [[ -x $python && -f $stamp && $(<"$stamp") == "$wanted" ]] && return
    # Two runs at once: the second waits, and finds the work done. The lock is the checkout's directory, so
    # that nothing has to be left behind; it is not handed on to children (a daemon would keep it).
    exec 9<"$root"
    flock 9
    if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
        if ! venv_works; then
            rm -rf "$venv"
            quietly "making .venv" "$base" -m venv "$venv" 9<&-
        fi
        rm -f "$stamp"
        # Newer pips take what builds need from PIP_BUILD_CONSTRAINT, older ones from PIP_CONSTRAINT.
        # Relative names: the variables split at blanks, and a checkout's path may hold some.
        (
            cd "$root"
            export PIP_DISABLE_PIP_VERSION_CHECK=1
            export PIP_CONSTRAINT='mount_scripts/constraints.txt mount_scripts/build-constraints.txt'
            export PIP_BUILD_CONSTRAINT=mount_scripts/build-constraints.txt
            quietly "installing the Python packages (a minute or two the first time)" \
                "$python" -m pip install --editable '.[dev]' 9<&-
        )
        printf '%s\n' "$wanted" >"$stamp"
    fi
    exec 9<&-
}

set_up() {
    local before=$SECONDS
    install_packages
    install_venv
    if ((SECONDS - before > 2)); then
        say "setup: ready in $((SECONDS - before)) s"
    fi
}
