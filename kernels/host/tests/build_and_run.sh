#!/bin/sh
# Builds and runs tests of kernels on the emulator.
#
# usage: kernels/host/tests/build_and_run.sh [NAME...]      all of tests/*.cpp, or tests/NAME.cpp
#
# Programs and objects go to $VOXTILE_EMULATOR_FOLDER, by default target/emulator. A program is
# rebuilt when anything in kernels/ has changed. See ../build.sh for flags.
set -eu
tests=$(cd "$(dirname "$0")" && pwd)
host=$tests/..
kernels=$host/..
folder=${VOXTILE_EMULATOR_FOLDER:-$kernels/../target/emulator}
"$host/build.sh" "$folder" --archive
folder=$(cd "$folder" && pwd)
compiler=${CXX:-g++}
flags="-std=c++17 -O2 -g -march=native -ffp-contract=off -fno-math-errno -fstack-clash-protection -pthread -Wall -Wextra -Wno-unknown-pragmas ${VOXTILE_EMULATOR_FLAGS:-}"
[ $# -gt 0 ] || set -- $(cd "$tests" && ls *.cpp | sed 's/\.cpp$//')
digest=$({ echo "$flags"; cat "$folder/libemulator.a.digest" "$kernels"/*.cuh "$host"/*.h "$tests"/*.h; } 2> /dev/null | sha256sum)
status=0
for name; do
    program=$folder/test_$name
    wanted=$({ echo "$digest"; cat "$tests/$name.cpp"; } | sha256sum)
    if [ ! -x "$program" ] || [ "$(cat "$program.digest" 2> /dev/null)" != "$wanted" ]; then
        "$compiler" $flags "$tests/$name.cpp" "$folder/libemulator.a" -o "$program"
        echo "$wanted" > "$program.digest"
    fi
    echo "== $name"
    "$program" || status=1
done
exit $status
