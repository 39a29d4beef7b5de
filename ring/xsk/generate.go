package xsk

// The filter is compiled for both byte orders and committed, so that building
// needs no compiler; `go generate` needs clang, llvm-strip and libbpf's headers.
//
//go:generate go tool bpf2go -go-package xsk -target bpfel,bpfeb -cc clang -type config -type pool4_key -type pool4_sets -type port_set -type static_key filter bpf/filter.c -- -O2 -g -Wall -Wextra -Wno-sign-compare -Werror -mcpu=v3 -idirafter /usr/include/x86_64-linux-gnu
