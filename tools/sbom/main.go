// Sbom writes the software bill of materials of a Go program as CycloneDX JSON: what
// the linker has noted in it, and the licence of each module from a checked list. The
// same program gives the same bytes.
//
//	go -C tools run ./sbom PROGRAM LICENCES VERSION
package main

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"net/url"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	cdx "github.com/CycloneDX/cyclonedx-go"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 4 {
		return errors.New("usage: sbom PROGRAM LICENCES VERSION")
	}
	info, err := buildinfo.ReadFile(os.Args[1])
	if err != nil {
		return err
	}
	licences, err := readLicences(os.Args[2])
	if err != nil {
		return err
	}
	bom, err := describe(info, licences, os.Args[3])
	if err != nil {
		return err
	}
	return cdx.NewBOMEncoder(os.Stdout, cdx.BOMFileFormatJSON).SetPretty(true).EncodeVersion(bom, cdx.SpecVersion1_6)
}

// readLicences reads lines of a module's path and its SPDX identifier.
func readLicences(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	licences := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) == 2 && !strings.HasPrefix(line, "#") {
			licences[f[0]] = f[1]
		}
	}
	return licences, nil
}

// describe makes the bill of a program whose licence is that of its own module.
func describe(info *buildinfo.BuildInfo, licences map[string]string, version string) (*cdx.BOM, error) {
	main, err := component(cdx.ComponentTypeApplication, info.Main.Path, version, licences)
	if err != nil {
		return nil, err
	}
	std, err := component(cdx.ComponentTypeLibrary, "std", strings.TrimPrefix(info.GoVersion, "go"), licences)
	if err != nil {
		return nil, err
	}
	components, refs := []cdx.Component{std}, []string{std.BOMRef}
	for _, m := range info.Deps {
		c, err := moduleComponent(m, licences)
		if err != nil {
			return nil, err
		}
		components, refs = append(components, c), append(refs, c.BOMRef)
	}
	bom := cdx.NewBOM()
	bom.Metadata = &cdx.Metadata{Component: &main}
	if epoch, err := strconv.ParseInt(os.Getenv("SOURCE_DATE_EPOCH"), 10, 64); err == nil {
		bom.Metadata.Timestamp = time.Unix(epoch, 0).UTC().Format(time.RFC3339)
	}
	bom.Components = &components
	bom.Dependencies = &[]cdx.Dependency{{Ref: main.BOMRef, Dependencies: &refs}}
	return bom, nil
}

func moduleComponent(m *debug.Module, licences map[string]string) (cdx.Component, error) {
	if m.Replace != nil {
		m = m.Replace
	}
	c, err := component(cdx.ComponentTypeLibrary, m.Path, m.Version, licences)
	// The sum is go.sum's: of the module's files, by which Go's checksum database knows it.
	c.Properties = &[]cdx.Property{{Name: "go:sum", Value: m.Sum}}
	return c, err
}

func component(kind cdx.ComponentType, path, version string, licences map[string]string) (cdx.Component, error) {
	licence, ok := licences[path]
	if !ok {
		return cdx.Component{}, fmt.Errorf("module %s has no licence in the list", path)
	}
	purl := "pkg:golang/" + path + "@" + url.PathEscape(version)
	return cdx.Component{
		BOMRef: purl, Type: kind, Name: path, Version: version, PackageURL: purl,
		Licenses: &cdx.Licenses{{License: &cdx.License{ID: licence}}},
	}, nil
}
