# Sourced by the scripts beside it: runs project.py with the first Python that is new enough.
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
for python in "${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python}" python3 python3.14 python3.13 python3.12 python3.11 python; do
    if [ -n "$python" ] && "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        exec "$python" "$here/project.py" "$@"
    fi
done
echo "Python 3.11 or newer was not found. Install it from python.org or your system's packages." >&2
exit 1
