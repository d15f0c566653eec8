package main

import (
	"fmt"
	"runtime"
)

// version is set by the linker (-X main.version=...).
var version = "unknown"

type versionCmd struct{}

func (versionCmd) Run(s streams) error {
	_, err := fmt.Fprintf(s.out, "xnetfrontd %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return err
}
