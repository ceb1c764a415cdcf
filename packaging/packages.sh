#!/usr/bin/env bash
# packages.sh VERSION OUT ARCH...: builds triward and triward-agent and packs them as .deb and .rpm into the folder OUT.
# The same commit gives the same bytes: every time in them is SOURCE_DATE_EPOCH, by default that of the commit.
# NFPM names the nfpm program.
set -euo pipefail
umask 022

version=$1
out=$(realpath -m "$2")
shift 2
cd "$(dirname "$0")/.."
: "${NFPM:?names the nfpm program}"
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
mtime=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

declare -A main=([triward]=./appliance/cmd/triward [triward-agent]=./agent/cmd/triward-agent)

compile() { # ARCH
	echo "packages: building for $1"
	mkdir -p "$build/$1"
	CGO_ENABLED=0 GOOS=linux GOARCH=$1 go build -trimpath -buildvcs=false \
		-ldflags "-s -w -X main.version=$version -X github.com/triward/triward/appliance/cli.release=$version" \
		-o "$build/$1/" "${main[@]}"
}

# What the programs say about themselves needs one that runs here.
here=$(go env GOHOSTARCH)
for arch in $(printf '%s\n' "$@" "$here" | sort -u); do compile "$arch"; done
for name in "${!main[@]}"; do
	for shell in bash zsh fish; do "$build/$here/$name" completion "$shell" >"$build/$name.$shell"; done
	packaging/licenses.sh "${main[$name]}" >"$build/$name.licenses"
done

scripts() { # FORMAT NAME: fills the maintainer scripts in
	mkdir -p "$build/scripts"
	for file in packaging/scripts/"$1"/*; do
		sed -e '/^[[:space:]]*@USER@$/{' -e 'r packaging/scripts/user.sh' -e 'd' -e '}' "$file" |
			sed "s/@NAME@/$2/g" >"$build/scripts/$(basename "$file")"
	done
}

pack() { # FORMAT NAME ARCH
	sed -e "s|@ARCH@|$3|g; s|@VERSION@|$version|g; s|@MTIME@|$mtime|g; s|@BUILD@|$build|g; s|@SCRIPTS@|$build/scripts|g" \
		"packaging/nfpm/$2.yaml" >"$build/nfpm.yaml"
	"$NFPM" package --config "$build/nfpm.yaml" --packager "$1" --target "$out/" >"$build/said" || {
		cat "$build/said"
		return 1
	}
}

mkdir -p "$out"
for name in triward triward-agent; do
	for format in deb rpm; do
		scripts "$format" "$name"
		for arch in "$@"; do pack "$format" "$name" "$arch"; done
	done
done
(cd "$out" && rm -f SHA256SUMS && sha256sum -- *.deb *.rpm >"$build/sums" && mv "$build/sums" SHA256SUMS)
echo "packages: in $out"
