#!/bin/sh
# Builds the emulated device.
#
# usage: kernels/host/build.sh FOLDER [--archive]
#
#   FOLDER/libemulator.a   for tests of kernels (tests/build_and_run.sh); --archive makes only this
#   FOLDER/libcuda.so.1    the driver with the kernels of ../voxtile.cu in it. A process that loads
#                          it by its path, or has FOLDER in LD_LIBRARY_PATH, gets it as libcuda.so.1.
#
# Does nothing where neither sources nor flags have changed. Environment:
#   CXX                      compiler, by default g++
#   VOXTILE_EMULATOR_FLAGS   more flags, such as -fsanitize=undefined
set -eu
folder=${1:?usage: build.sh FOLDER}
host=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
compiler=${CXX:-g++}
# Rounding must not depend on which processor compiles, so nothing is contracted. Stacks are probed, so
# that no large array reaches over the guard page below.
flags="-std=c++17 -O2 -g1 -march=native -ffp-contract=off -fno-math-errno -fstack-clash-protection -fPIC -fvisibility=hidden -ftls-model=initial-exec
    -pthread -Wall -Wextra -Wno-unknown-pragmas ${VOXTILE_EMULATOR_FLAGS:-}"

# One build at a time.
exec 9> "$folder/lock"
flock 9

# Machines differ in what -march=native means.
base=$({ "$compiler" --version; echo "$flags"; "$compiler" -march=native -E -dM -x c++ /dev/null; } | sha256sum)

# compile OBJECT SOURCE DIGEST
compile() {
    if [ ! -f "$folder/$1" ] || [ "$(cat "$folder/$1.digest" 2> /dev/null)" != "$3" ]; then
        rm -f "$folder/$1.digest"
        "$compiler" $flags -x c++ -c "$2" -o "$folder/$1"
        echo "$3" > "$folder/$1.digest"
    fi
}

# compile_all DIGEST SOURCE...: sets objects. Two compilers at a time.
compile_all() {
    common=$1
    shift
    objects=
    waiting=
    for source; do
        name=$(basename "${source%.*}").o
        objects="$objects $folder/$name"
        compile "$name" "$source" "$({ echo "$common"; cat "$source"; } | sha256sum)" &
        [ -z "$waiting" ] || wait "$waiting"
        waiting=$!
    done
    wait "$waiting"
    for object in $objects; do
        [ -f "$object.digest" ] || { echo "build.sh: $object was not made" >&2; exit 1; }
    done
}

# digest_of OBJECT...
digest_of() {
    cat $(printf '%s.digest ' "$@") | sha256sum
}

# is_made FILE DIGEST
is_made() {
    [ -f "$1" ] && [ "$(cat "$1.digest" 2> /dev/null)" = "$2" ]
}

headers=$({ echo "$base"; cat "$host"/*.h "$host"/driver/*.h "$host/../primitives.cuh"; } | sha256sum)
compile_all "$headers" "$host"/*.cpp "$host"/driver/*.cpp
emulator=$objects
digest=$(digest_of $emulator)
if ! is_made "$folder/libemulator.a" "$digest"; then
    rm -f "$folder/libemulator.a" "$folder/libemulator.a.digest"
    ar rcs "$folder/libemulator.a" $emulator
    echo "$digest" > "$folder/libemulator.a.digest"
fi
[ "${2:-}" != --archive ] || exit 0

compile_all "$({ echo "$headers"; cat "$host"/../*.cuh; } | sha256sum)" "$host/../voxtile.cu"
digest=$(digest_of $emulator $objects)
if ! is_made "$folder/libcuda.so.1" "$digest"; then
    rm -f "$folder/libcuda.so.1.digest"
    echo '{ global: cu*; local: *; };' > "$folder/exports"
    # Its threads and its fault handler stay when a program closes it.
    "$compiler" $flags -shared -Wl,-soname,libcuda.so.1 -Wl,-z,defs,-z,nodelete -Wl,-Bsymbolic \
        -Wl,--version-script="$folder/exports" $emulator $objects -o "$folder/libcuda.so.1.new"
    mv "$folder/libcuda.so.1.new" "$folder/libcuda.so.1"
    echo "$digest" > "$folder/libcuda.so.1.digest"
fi
