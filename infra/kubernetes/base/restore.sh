#!/usr/bin/env bash
# Put the dump RESTORE_FILE (of BACKUP_DIR; empty: the newest) in place of what the database at MLFLOW_BACKEND_STORE_URI
# holds. All of it happens in one transaction: where anything fails, the database stays as it was. With RESTORE_CHECK=1
# the dump is only compared with the sha256 beside it; RESTORE_UNCHECKED=1 takes one that has none.
set -euo pipefail
die() {
  echo "error: $*" >&2
  exit 2
}

cd "$BACKUP_DIR"
shopt -s nullglob
dumps=(mlflow-*.dump)
dump=${RESTORE_FILE:-}
[ -n "$dump" ] || [ ${#dumps[@]} = 0 ] || dump=${dumps[-1]}
dump=${dump##*/}
[ -n "$dump" ] && [ -f "$dump" ] || die "there is no dump $dump in $BACKUP_DIR; it has: ${dumps[*]}"
if [ -f "$dump.sha256" ]; then
  [ "$(sha256sum <"$dump" | cut -c -64)" = "$(cut -c -64 "$dump.sha256")" ] ||
    die "$dump is not what was written: its sha256 differs; restore another"
elif [ "${RESTORE_UNCHECKED:-}" != 1 ]; then
  die "$dump has no $dump.sha256 beside it, so nobody knows whether it is whole; \`infra/restore --unchecked $dump\` takes it"
fi
if [ "${RESTORE_CHECK:-}" = 1 ]; then
  echo "found $BACKUP_DIR/$dump"
  exit
fi
sql=$(mktemp)
trap 'rm -f "$sql"' EXIT
# With a schema goes what a newer MLflow put there, which no command of the dump knows. The dump has each schema but public
# in a line of class 2615: `number; class object SCHEMA - name owner`.
schemas=$(pg_restore --list "$dump" | sed -n 's/^[0-9]*; 2615 [0-9]* SCHEMA - \(.*\) [^ ]*$/\1/p; $a public')
{
  printf 'SET client_min_messages = warning;\n'
  sort -u <<<"$schemas" | sed 's/"/""/g; s/.*/DROP SCHEMA IF EXISTS "&" CASCADE;/'
  printf 'CREATE SCHEMA public;\n'
  pg_restore --no-owner --no-privileges --file=- "$dump"
} >"$sql"
# As in backup.sh: a new pod may be refused at first.
for ((tried = 0; tried < ${DATABASE_TRIES:-30}; tried++)); do pg_isready --quiet --timeout=2 --dbname="$MLFLOW_BACKEND_STORE_URI" && break; sleep 2; done
psql --no-psqlrc --quiet --output=/dev/null --single-transaction --set=ON_ERROR_STOP=1 --file="$sql" \
  "$MLFLOW_BACKEND_STORE_URI"
echo "restored $BACKUP_DIR/$dump"
