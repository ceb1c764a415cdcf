#!/usr/bin/env bash
# licenses.sh PACKAGE: prints the licences of the modules that a program for Linux is made of, each under its name and
# version. The modules are those of both architectures that we ship, so the text is the same for both.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C CGO_ENABLED=0 GOOS=linux

echo "This program contains the following modules."
for arch in amd64 arm64; do
	GOARCH=$arch go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' "$1"
done | sort -u | while read -r path version dir; do
	printf '\n=== %s %s\n' "$path" "$version"
	find "$dir" -maxdepth 1 -type f -iregex '.*/\(licen[cs]e\|copying\|notice\|unlicense\|patents\)[^/]*' | sort | while read -r file; do
		printf '\n'
		cat "$file"
	done
done
