# Sets a machine up for one environment. skyward/engine/recipe.py puts the settings in front of this text:
#
#   KEY     names the environment                 FILES   names the included files; empty: none
#   PYTHON  a version, such as 3.13               APT     system packages
#   EXACT   not empty: every requirement is an exact version, so a cache knows as much as an index
#
# `ask` only says what is there; `build`, with the files of the recipe in ./setup, makes what is missing. Lines
# that begin with `::skyward ` are for skyward/engine/remote.py, all others for people. Runs in the machine's
# folder. POSIX sh.
#
# In ~/.skyward, which pools share:
#
#   envs/<key>-<processor>/   venv; ready, written last, which names the Python to run and was touched when the
#                             environment was last used. Without it the folder is nothing and may be removed.
#   files/<digest>/           tree, ready
#   bin/uv, python/<version>  what the machine lacked
#
# Whoever builds an environment, or removes it, holds a lock on envs/<key>-<processor>.lock.

set -f

base=$HOME/.skyward
env=$base/envs/$KEY-$(uname -m)
files=$base/files/$FILES
here=$PWD

say() { printf '::skyward %s\n' "$*"; }

phase() { say phase "$1"; }

fail() {
    say failed "$1"
    exit 1
}

run() {
    say run "$*"
    "$@"
}

is_ready() {
    python=
    [ -f "$env/ready" ] && IFS= read -r python <"$env/ready" && [ -x "$python" ]
}

has_files() {
    [ -z "$FILES" ] || [ -f "$files/ready" ]
}

# Sets `missing` to the system packages that are not installed.
look_for_packages() {
    missing=
    [ -n "$APT" ] || return 0
    names=
    for package in $APT; do
        names="$names ${package%%[=/]*}"
    done
    installed=$(dpkg-query -W -f '${db:Status-Status}:${Package}=${Version} ' $names 2>/dev/null)
    for package in $APT; do
        case " $installed" in
        *" installed:$package "* | *" installed:${package%%/*}="*) ;;
        *) missing="$missing $package" ;;
        esac
    done
}

# Sets `uv` to one that works and is not too old for what is asked of it below.
find_uv() {
    for uv in "$(command -v uv)" "$HOME/.local/bin/uv" "$HOME/.cargo/bin/uv" "$base/bin/uv"; do
        [ -x "$uv" ] || continue
        case $("$uv" --version 2>/dev/null) in
        '' | 'uv 0.'[0-4].*) ;;
        *) return 0 ;;
        esac
    done
    uv=
    return 1
}

# Gives the machine a copy of the included files, which tasks may write to, and says what to work with.
finish() {
    touch -c "$env/ready"
    if [ -n "$FILES" ]; then
        rm -rf "$here/work"
        cp -R --reflink=auto "$files/tree" "$here/work" 2>/dev/null || {
            rm -rf "$here/work"
            run cp -R "$files/tree" "$here/work" || exit 1
        }
        touch -c "$files/ready"
    fi
    say fact path "$PATH"
    say fact venv "$env/venv"
    say fact work "$here/work"
    say ready "$python"
}

ask() {
    look_for_packages
    if is_ready && has_files && [ -z "$missing" ]; then
        finish
        return
    fi
    is_ready && say fact environment ready
    has_files && say fact files ready
    find_uv && say fact uv "$uv"
    say fact system "$(uname -s) $(uname -m)"
    say fact libc "$(getconf GNU_LIBC_VERSION 2>/dev/null || echo other)"
}

build() {
    command -v flock >/dev/null || fail no-flock
    (umask 077 && mkdir -p "$base") && mkdir -p "$base/envs" "$base/files" "$base/bin" "$base/python" || exit 1
    look_for_packages
    [ -z "$missing" ] || install_packages
    exec 9>"$env.lock" || exit 1
    flock -n 9 || run flock 9 # another pool is at it; then there is nothing left to do
    is_ready || make_environment
    has_files || unpack_files
    finish
    tidy </dev/null >/dev/null 2>&1 9>&- &
}

apt_get() {
    # Without our lock: what it starts may stay.
    run $sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 "$@" 9>&-
}

install_packages() {
    phase apt
    command -v apt-get >/dev/null || fail no-apt
    sudo=
    if [ "$(id -u)" != 0 ]; then
        sudo='sudo -n'
        $sudo true 2>/dev/null || fail no-root
    fi
    if find /var/lib/apt/lists -name '*Packages*' 2>/dev/null | grep -q .; then
        apt_get install -y --no-install-recommends $missing && return
    fi
    apt_get update
    apt_get install -y --no-install-recommends $missing || exit 1
}

make_environment() {
    find_uv || bring_uv
    rm -rf "$env" && mkdir "$env" || exit 1
    python=$env/venv/bin/python
    make_venv
    cd setup || exit 1
    [ ! -s requirements.txt ] && [ ! -f scoped ] || install_requirements
    if [ -s wheels.txt ]; then
        phase ship
        run "$uv" pip install --python "$env/venv" --offline --no-index --no-cache --no-deps -r wheels.txt || exit 1
    fi
    cd "$here" || exit 1
    printf '%s\n' "$python" >"$env/ready~" && mv "$env/ready~" "$env/ready" || exit 1
}

bring_uv() {
    phase uv
    uv=$base/bin/uv
    if [ -f uv.gz ]; then
        say run "gzip -d uv.gz"
        gzip -dc uv.gz >"$uv.$$" && chmod 755 "$uv.$$" && mv "$uv.$$" "$uv" || exit 1
        rm -f uv.gz
        return
    fi
    from=https://astral.sh/uv/install.sh
    say run "curl $from"
    if command -v curl >/dev/null; then
        curl -fsSL --connect-timeout 15 "$from" >setup/install-uv.sh || fail no-uv
    else
        wget -q -T 15 -O setup/install-uv.sh "$from" || fail no-uv
    fi
    UV_INSTALL_DIR=$base/bin UV_NO_MODIFY_PATH=1 sh setup/install-uv.sh || fail no-uv
}

new_venv() {
    phase venv
    run "$uv" venv --quiet --no-project --python "$1" "$env/venv"
}

make_venv() {
    export UV_PYTHON_DOWNLOADS=never
    new_venv "$PYTHON" && return
    # Where there is such a Python, it failed for another reason.
    (cd / && "$uv" python find "$PYTHON" >/dev/null 2>&1) && exit 1
    phase python
    lent=$base/python/$PYTHON
    if [ ! -f "$lent/ready" ] && [ -f python.tar.gz ]; then
        say run "tar -xzf python.tar.gz"
        rm -rf "$lent.$$" && mkdir "$lent.$$" || exit 1
        gzip -dc python.tar.gz | tar -xof - -C "$lent.$$" || exit 1
        rm -rf python.tar.gz "$lent"
        : >"$lent.$$/ready" && mv "$lent.$$" "$lent" || exit 1
    fi
    if [ -f "$lent/ready" ]; then
        # Its libraries are found by this variable alone: it was built for another folder.
        libraries="$lent/lib\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
        printf '#!/bin/sh\nLD_LIBRARY_PATH="%s" exec "%s" "$@"\n' "$libraries" "$python" >"$env/python"
        chmod 755 "$env/python"
        python=$env/python
        export LD_LIBRARY_PATH="$lent/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
        new_venv "$lent/bin/python3" || exit 1
    elif fetch_python; then
        new_venv "$PYTHON" || exit 1
    else
        fail no-python
    fi
}

# Without much patience: what can't be downloaded may be lent.
fetch_python() {
    UV_PYTHON_DOWNLOADS=manual UV_HTTP_RETRIES=${UV_HTTP_RETRIES:-1} UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-20} \
        run "$uv" python install "$PYTHON"
}

install_requirements() {
    phase packages
    set -- pip install --python "$env/venv" -r requirements.txt -r pyproject.toml
    [ -z "$EXACT" ] || ! "$uv" "$@" --offline >/dev/null 2>&1 || return 0
    settle_origins
    run "$uv" "$@" || exit 1
}

# Each line `  #"name",` of pyproject.toml is a package that may come from one index only, though nobody asked
# for it by name. uv minds such a rule only for what is asked for: those that are needed become so.
settle_origins() {
    while grep -q '^  #"' pyproject.toml; do
        needed=$("$uv" pip compile --quiet --no-header --no-annotate --no-build --python "$env/venv" \
            requirements.txt pyproject.toml 2>&1)
        status=$?
        found=
        for name in $(sed -n 's/^  #"\(.*\)",$/\1/p' pyproject.toml); do
            if printf '%s\n' "$needed" | grep -q -E "(^|[^a-z0-9-])$name([^a-z0-9-]|\$)"; then
                sed -i "s/^  #\"$name\",\$/  \"$name\",/" pyproject.toml
                found=yes
            fi
        done
        [ -z "$found" ] || continue
        # What can't be found out must not let another index in.
        [ "$status" = 0 ] || sed -i 's/^  #"/  "/' pyproject.toml
        return
    done
}

unpack_files() {
    phase ship
    say run "tar -xf files.tar"
    rm -rf "$files" "$files.$$" && mkdir -p "$files.$$/tree" || exit 1
    tar -xof files.tar -C "$files.$$/tree" || exit 1
    rm -f files.tar
    : >"$files.$$/ready" && mv "$files.$$" "$files" || exit 1
}

# Keeps the five environments and sets of files that were used last, what was used within the hour, and what
# a process was started from.
tidy() {
    set +f
    for kind in envs files; do
        cd "$base/$kind" || return
        kept=$(ls -t -d -- */ready 2>/dev/null | head -n 5)
        for folder in */; do
            folder=${folder%/}
            mark=$folder
            [ ! -f "$folder/ready" ] || mark=$folder/ready
            printf '%s\n' "$kept" | grep -q -x -F "$folder/ready" && continue
            [ -n "$(find "$mark" -prune -mmin +60)" ] || continue
            # The name goes through a pipe, so that grep does not find itself.
            printf '%s\n' "$base/$kind/$folder/" | grep -q -s -F -f - /proc/[0-9]*/cmdline && continue
            (
                flock -n 9 || exit
                rm -f "$folder/ready"
                rm -rf "$folder"
            ) 9>"$folder.lock"
        done
    done
}

# Downloads print nothing for minutes. What fills the disk is progress, too.
watch_disk() {
    was=$(df -Pk "$HOME" | tail -n 1)
    while sleep 5 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
        is=$(df -Pk "$HOME" | tail -n 1)
        [ "$is" = "$was" ] || say alive
        was=$is
    done
}

case $1 in
ask) ask ;;
build)
    watch_disk </dev/null &
    watcher=$!
    trap 'kill $watcher 2>/dev/null; rm -rf "$here/setup"' EXIT
    trap 'exit 1' HUP INT TERM PIPE
    build
    ;;
esac
