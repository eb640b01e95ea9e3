#!/usr/bin/env bash
# Put the dump RESTORE_FILE (of BACKUP_DIR; empty: the newest) in place of what the database at MLFLOW_BACKEND_STORE_URI
# holds. All of it happens in one transaction: where anything fails, the database stays as it was.
set -euo pipefail
shopt -s nullglob
dumps=("$BACKUP_DIR"/mlflow-*.dump)
name=${RESTORE_FILE:-}
[ -n "$name" ] || [ ${#dumps[@]} = 0 ] || name=${dumps[-1]}
dump="$BACKUP_DIR/${name##*/}"
if [ -z "$name" ] || [ ! -f "$dump" ]; then
  echo "error: there is no dump ${name##*/} in $BACKUP_DIR; it has: ${dumps[*]##*/}" >&2
  exit 2
fi
sql=$(mktemp)
trap 'rm -f "$sql"' EXIT
pg_restore --no-owner --no-privileges --file="$sql" "$dump"
psql --no-psqlrc --quiet --output=/dev/null --single-transaction --set=ON_ERROR_STOP=1 \
  --command="SET client_min_messages = warning" --command="DROP SCHEMA public CASCADE" \
  --command="CREATE SCHEMA public" --file="$sql" "$MLFLOW_BACKEND_STORE_URI"
echo "restored $dump"
