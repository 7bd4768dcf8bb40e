# Shared by the prepare scripts: a step that is done once per version of its inputs, also when tests race.
# It prints the folder it has prepared. Exit status 75 says that something cannot be had on this machine.

# prepare <language> <file>...: names the folders, and the files that decide whether to install again.
prepare() {
    language=$1
    shift
    source=$(cd "$(dirname "$0")" && pwd)
    target=${DAPR_E2E_TARGET:-$source/../../../target/e2e/sdk}/$language
    mkdir -p "$target"
    target=$(cd "$target" && pwd)
    hash=$(cd "$source" && cat "$@" prepare | sha256sum | cut -d ' ' -f 1)
}

# cannot_be_had <why>: gives up for a reason that lies outside this project.
cannot_be_had() {
    echo "$1" >&2
    exit 75
}

# needs <program>
needs() {
    command -v "$1" >/dev/null || cannot_be_had "there is no $1"
}

# once: calls install under a lock unless the stamp says that it was done.
once() {
    (
        flock 9
        if [ "$(cat "$target/stamp" 2>/dev/null)" != "$hash" ]; then
            rm -f "$target/stamp"
            install
            echo "$hash" > "$target/stamp"
        fi
    ) 9> "$target/lock"
    echo "$target"
}
