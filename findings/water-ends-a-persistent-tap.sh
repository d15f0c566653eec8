#!/bin/sh
# github.com/songgao/water v0.0.0-20200317203138-2b4b6d7c09d8: to open a persistent TAP by
# its name, as one that an administrator has made, makes it persistent no more: it is gone,
# with its addresses, when the program ends. PlatformSpecificParams.Persist is a bool, and
# New sets the kernel's flag to it (TUNSETPERSIST), also where the caller has not said
# anything. One would expect that the zero value leaves a TAP as it is, as TUNSETIFF does.
#
# The script makes a TAP in a network namespace of its own, and has water open and close
# it. Seen:
#
#     before: tap0
#     after: none
here="$(cd "$(dirname "$0")" && pwd)"
. "$here/common.sh"
[ "$(id -u)" = 0 ] || cannot "making a network namespace needs root"
[ -e /dev/net/tun ] || cannot "/dev/net/tun is not there"
command -v ip >/dev/null && command -v unshare >/dev/null || cannot "ip (iproute2) and unshare (util-linux) are needed"
cat >main.go <<'GO'
package main

import (
	"log"

	"github.com/songgao/water"
)

func main() {
	tap, err := water.New(water.Config{
		DeviceType:             water.TAP,
		PlatformSpecificParams: water.PlatformSpecificParams{Name: "tap0"},
	})
	if err != nil {
		log.Fatal(err)
	}
	if err := tap.Close(); err != nil {
		log.Fatal(err)
	}
}
GO
cat >go.mod <<'MOD'
module finding

go 1.26.0

require (
	github.com/songgao/water v0.0.0-20200317203138-2b4b6d7c09d8
)
MOD
cat >go.sum <<'SUM'
github.com/songgao/water v0.0.0-20200317203138-2b4b6d7c09d8 h1:TG/diQgUe0pntT/2D9tmUCz4VNwm9MfrtPr0SU2qSX8=
github.com/songgao/water v0.0.0-20200317203138-2b4b6d7c09d8/go.mod h1:P5HUIBuIWKbyjl083/loAegFkfbFNx5i2qEP4CNbm7E=
SUM
build
cat >steps <<'SH'
ip tuntap add dev tap0 mode tap
echo "before: $(ip -o link show tap0 2>/dev/null | cut -d : -f 2 | tr -d ' ')"
./program
echo "after: $(ip -o link show tap0 2>/dev/null | cut -d : -f 2 | tr -d ' ' | grep . || echo none)"
SH
expect 'before: tap0
after: none' "water's New ends the persistence of a TAP that it opens by name" unshare -n sh steps
