#!/usr/bin/env bash
# Dump the database at MLFLOW_BACKEND_STORE_URI into BACKUP_DIR and keep the newest BACKUP_KEEP dumps.
set -euo pipefail
umask 077
rm -f "$BACKUP_DIR"/mlflow-*.partial # of a pod that was killed
dump="$BACKUP_DIR/mlflow-$(date -u +%Y%m%dT%H%M%SZ).dump"
trap 'rm -f "$dump.partial"' EXIT
pg_dump --format=custom --no-owner --no-privileges --file="$dump.partial" "$MLFLOW_BACKEND_STORE_URI"
# A dump that cannot be read back whole takes nobody's place.
pg_restore --file=/dev/null "$dump.partial"
mv "$dump.partial" "$dump"
shopt -s nullglob
dumps=("$BACKUP_DIR"/mlflow-*.dump) # sorted, so oldest first
for old in "${dumps[@]:0:$((${#dumps[@]} > BACKUP_KEEP ? ${#dumps[@]} - BACKUP_KEEP : 0))}"; do
  rm -- "$old"
done
echo "wrote $dump, $(stat --format=%s "$dump") bytes"
