#!/usr/bin/env bash
# test-reproducible.sh VERSION ARCH...: builds the packages twice and compares every byte: once here, once from a copy of
# the tree elsewhere, with nothing compiled before, other times on its files, another umask and time zone.
# NFPM names the nfpm program.
set -euo pipefail
version=$1
shift
cd "$(dirname "$0")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH

echo "test-reproducible: here"
packaging/packages.sh "$version" "$work/first" "$@"

copy=$work/elsewhere/tree
mkdir -p "$copy"
git ls-files -z | tar -cf - --null --files-from=- | tar -xf - -C "$copy" --touch
cp -r ui/web/dist "$copy/ui/web/"
export GOCACHE=$work/gocache
echo "test-reproducible: from a copy, compiling everything"
(cd "$copy" && umask 077 && TZ=Asia/Shanghai LC_ALL=C.UTF-8 packaging/packages.sh "$version" "$work/second" "$@")

if diff "$work/first/SHA256SUMS" "$work/second/SHA256SUMS"; then
	echo "test-reproducible: passed, $(wc -l <"$work/first/SHA256SUMS") packages are the same twice"
else
	echo "test-reproducible: FAILED" >&2
	exit 1
fi
