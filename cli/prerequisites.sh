#!/bin/sh
# Names every missing prerequisite with the version wanted; changes nothing. Exit 1 where one is missing.
# PYTHON names another Python 3.11 than python3.11.

python=${PYTHON:-python3.11}
missing=0

lacks() {
    echo "missing: $1" >&2
    echo "         $2" >&2
    missing=1
}

# The major version in the first line of "java -version" and its like: 17 of "17.0.15".
major() {
    sed -n '1s/^[^0-9]*\([0-9][0-9]*\).*/\1/p'
}

if ! command -v "$python" >/dev/null 2>&1; then
    lacks "Python 3.11" "no $python on PATH; install it, or name one with PYTHON=/path/to/python3.11"
elif ! "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
    lacks "Python 3.11" "$python is $("$python" --version 2>&1); Flink's packages need 3.11; name one with PYTHON="
elif ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    lacks "Python 3.11 with venv and ensurepip" "$python lacks them; on Debian and Ubuntu: python3.11-venv"
fi

for tool in java javac; do
    if ! command -v "$tool" >/dev/null 2>&1; then
        lacks "JDK 17" "no $tool on PATH; a JDK is needed, a JRE is not enough"
    else
        found=$("$tool" -version 2>&1 | major)
        if [ "${found:-0}" -ne 17 ]; then
            lacks "JDK 17" "$tool on PATH is version ${found:-unknown}; put JDK 17 first on PATH"
        fi
    fi
done

if ! command -v mvn >/dev/null 2>&1; then
    lacks "Maven 3.8 or newer" "no mvn on PATH"
fi

if ! command -v make >/dev/null 2>&1; then
    lacks "GNU make 4 or newer" "no make on PATH"
elif ! make --version 2>/dev/null | grep -q '^GNU Make \([4-9]\|[1-9][0-9]\)'; then
    lacks "GNU make 4 or newer" "make on PATH is another one; on macOS: gmake"
fi

exit $missing
