#!/bin/sh
# curl. Arguments: address and file; prints status and answer of each request, a line each.
set -eu
url=$1 file=$2
damaged=$(mktemp)
trap 'rm "$damaged"' EXIT
printf 'no image' >"$damaged"

send() { # PATH, curl's options
    path=$1
    shift
    answer=$(curl --silent --show-error --noproxy '*' --write-out '\n%{http_code}' "$@" "$url/v1/$path")
    printf '[%s, %s]\n' "$(echo "$answer" | tail -n 1)" "$(echo "$answer" | head -n 1)"
}

send predict -F "image=@$file"
send predict -H 'content-type: image/png' --data-binary "@$file"
printf '{"image": "%s"}' "$(base64 "$file" | tr -d '\n')" | send predict --json @-
send predict/batch -F "images=@$file" -F "images=@$file"
send predict -F "image=@$damaged"
