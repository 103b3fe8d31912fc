#!/bin/sh
# Builds the emulated device.
#
# usage: kernels/host/build.sh FOLDER
#
#   FOLDER/libemulator.a   for tests of kernels (tests/build_and_run.sh)
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
# Rounding must not depend on which processor compiles: no contraction. What was not written to is
# to be found, not guessed: no assumption that stacks are clean.
flags="-std=c++17 -O2 -g1 -march=native -ffp-contract=off -fno-math-errno -fPIC -fvisibility=hidden -ftls-model=initial-exec
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

common=$({ echo "$base"; cat "$host"/*.h "$host/../primitives.cuh"; } | sha256sum)
emulator=
for source in "$host"/*.cpp; do
    name=$(basename "$source" .cpp)
    compile "$name.o" "$source" "$({ echo "$common"; cat "$source"; } | sha256sum)" &
    emulator="$emulator $folder/$name.o"
    # Two at a time.
    if [ "${waiting:-}" ]; then
        wait "$waiting"
    fi
    waiting=$!
done
wait "$waiting"
for object in $emulator; do
    [ -f "$object.digest" ] || { echo "build.sh: $object was not made" >&2; exit 1; }
done
digest=$(cat $(printf '%s.digest ' $emulator) | sha256sum)
if [ ! -f "$folder/libemulator.a" ] || [ "$(cat "$folder/libemulator.a.digest" 2> /dev/null)" != "$digest" ]; then
    rm -f "$folder/libemulator.a" "$folder/libemulator.a.digest"
    ar rcs "$folder/libemulator.a" $emulator
    echo "$digest" > "$folder/libemulator.a.digest"
fi
