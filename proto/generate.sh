#!/bin/sh
# Makes the code of both sides from the contract: shim/internal/contract (Go) and
# packer_plugin_osc_chroot/contract (Python, with its types).
#
# Usage: proto/generate.sh [DIRECTORY]
# DIRECTORY takes the two trees instead of the source tree (a test compares them with it).
#
# PYTHON names an interpreter that has grpcio-tools and mypy-protobuf (default: the .venv of this
# source tree); GO the Go tool. The Go plugins are those that shim/go.mod pins.
set -eu

root=$(cd "$(dirname "$0")/.." && pwd)
out=${1:-$root}
python=${PYTHON:-$root/.venv/bin/python}
go=${GO:-go}

mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir "$work/bin"
(cd "$root/shim" && CGO_ENABLED=0 "$go" build -o "$work/bin/" \
    google.golang.org/protobuf/cmd/protoc-gen-go \
    google.golang.org/grpc/cmd/protoc-gen-go-grpc)

# The plugins of mypy-protobuf stand beside the interpreter that has them.
python_bin=$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')

# protoc derives Python's module names from the file's path under its root: this gives them the
# package that they live in, and so imports that work without rewriting.
tree=$work/proto/packer_plugin_osc_chroot/contract
mkdir -p "$tree"
cp "$root/proto/osc_chroot/v1/plugin.proto" "$tree/plugin.proto"

mkdir "$work/go" "$work/python"
PATH="$work/bin:$python_bin:$PATH" "$python" -m grpc_tools.protoc \
    --proto_path="$work/proto" \
    --python_out="$work/python" \
    --grpc_python_out="$work/python" \
    --mypy_out="quiet:$work/python" \
    --mypy_grpc_out="quiet:$work/python" \
    packer_plugin_osc_chroot/contract/plugin.proto

PATH="$work/bin:$PATH" "$python" -m grpc_tools.protoc \
    --proto_path="$root/proto" \
    --go_out="$work/go" --go_opt=module=github.com/outscale/packer-plugin-osc-chroot/shim \
    --go-grpc_out="$work/go" --go-grpc_opt=module=github.com/outscale/packer-plugin-osc-chroot/shim \
    osc_chroot/v1/plugin.proto

mkdir -p "$out/shim/internal/contract" "$out/packer_plugin_osc_chroot/contract"
cp "$work/go/internal/contract/"*.go "$out/shim/internal/contract/"
cp "$work/python/packer_plugin_osc_chroot/contract/"* "$out/packer_plugin_osc_chroot/contract/"
printf '"""Generated from proto/osc_chroot/v1/plugin.proto by proto/generate.sh."""\n' \
    >"$out/packer_plugin_osc_chroot/contract/__init__.py"
