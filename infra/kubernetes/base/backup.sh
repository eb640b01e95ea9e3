#!/usr/bin/env bash
# Dump the database at MLFLOW_BACKEND_STORE_URI into BACKUP_DIR, with its sha256 beside it, and keep the newest BACKUP_KEEP
# dumps.
set -euo pipefail
umask 077
cd "$BACKUP_DIR"
rm -f mlflow-*.partial # of a pod that was killed
dump=mlflow-$(date -u +%Y%m%dT%H%M%SZ).dump
trap 'rm -f "$dump.partial"' EXIT
# A new pod is refused until the cluster's network has taken up its policies, with some for half a minute.
for ((tried = 0; tried < ${DATABASE_TRIES:-30}; tried++)); do pg_isready --quiet --timeout=2 --dbname="$MLFLOW_BACKEND_STORE_URI" && break; sleep 2; done
pg_dump --format=custom --no-owner --no-privileges --file="$dump.partial" "$MLFLOW_BACKEND_STORE_URI"
# A dump that cannot be read back whole takes nobody's place.
pg_restore --file=/dev/null "$dump.partial"
sha256sum "$dump.partial" | sed 's/\.partial$//' >"$dump.sha256"
mv "$dump.partial" "$dump"
shopt -s nullglob
dumps=(mlflow-*.dump) # sorted, so oldest first
for old in "${dumps[@]:0:$((${#dumps[@]} > BACKUP_KEEP ? ${#dumps[@]} - BACKUP_KEEP : 0))}"; do
  rm -f -- "$old" "$old.sha256"
done
echo "wrote $BACKUP_DIR/$dump, $(stat --format=%s "$dump") bytes"
