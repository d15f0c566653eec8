package lab

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Parts are what images are built of, by the names in the tables of their sources.
type Parts struct {
	Dom0, Guests string // kernels
	Xen          string
}

// Tables in the images' sources. The first of them is also, in the images, what was built.
const (
	kernelsFile = "kernels"
	xensFile    = "xens"
)

// KnownKernels are the names of kernels that source, the images' sources, has. The first
// is the default.
func KnownKernels(source string) ([]string, error) { return names(source, kernelsFile) }

// KnownXens are likewise the names of Xens.
func KnownXens(source string) ([]string, error) { return names(source, xensFile) }

func names(source, table string) ([]string, error) {
	path := filepath.Join(source, table)
	lines, err := fieldsOf(path)
	if err != nil {
		return nil, fmt.Errorf("the table %s: %w", table, err)
	}
	var names []string
	for _, fields := range lines {
		names = append(names, fields[0])
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s is empty", path)
	}
	return names, nil
}

// Programs that can be dom0's xenstored. Images have both.
const (
	StoreC     = "xenstored"
	StoreOCaml = "oxenstored"
)

// Ground is what a lab stands on.
type Ground struct {
	Name string
	Parts
	Store string // StoreC or StoreOCaml
	Type  string // of guests: TypePV or TypePVH
}

// ReadGrounds reads a table of grounds: a name, the guests' kernel, dom0's, Xen, the store
// and the guests' type in each line.
func ReadGrounds(path string) ([]Ground, error) {
	lines, err := fieldsOf(path)
	if err != nil {
		return nil, fmt.Errorf("the table of grounds: %w", err)
	}
	var grounds []Ground
	for _, f := range lines {
		if len(f) != 6 {
			return nil, fmt.Errorf("%s: %q: want a name, the guests' kernel, dom0's, Xen, the store and the guests' type", path, strings.Join(f, " "))
		}
		grounds = append(grounds, Ground{Name: f[0], Parts: Parts{Guests: f[1], Dom0: f[2], Xen: f[3]}, Store: f[4], Type: f[5]})
	}
	return grounds, nil
}

// Built is what images have.
type Built struct {
	Dom0, Guests string // versions, as uname has them
	Xen          string // the package's version
	Dom0MemMiB   int    // what dom0 needs with its kernel
}

// ReadBuilt reads what the images in a folder have.
func ReadBuilt(images string) (b Built, err error) {
	path := filepath.Join(images, kernelsFile)
	lines, err := fieldsOf(path)
	if err != nil {
		return b, fmt.Errorf("what the images have: %w: build them anew", err)
	}
	for _, fields := range lines {
		switch {
		case fields[0] == "guests" && len(fields) == 2:
			b.Guests = fields[1]
		case fields[0] == "xen" && len(fields) == 2:
			b.Xen = fields[1]
		case fields[0] == "dom0" && len(fields) == 3:
			b.Dom0 = fields[1]
			if _, err := fmt.Sscan(fields[2], &b.Dom0MemMiB); err != nil {
				return b, fmt.Errorf("%s: dom0's memory %q: %w", path, fields[2], err)
			}
		}
	}
	if b.Dom0 == "" || b.Guests == "" || b.Xen == "" || b.Dom0MemMiB <= 0 {
		return b, fmt.Errorf("%s does not say Xen, dom0's kernel, its memory and the guests' kernel: build the images anew", path)
	}
	return b, nil
}

// fieldsOf are a file's lines, cut at blanks, without empty ones and comments.
func fieldsOf(path string) (lines [][]string, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	scanner := bufio.NewScanner(f)
	for scanner.Scan() {
		if fields := strings.Fields(scanner.Text()); len(fields) > 0 && !strings.HasPrefix(fields[0], "#") {
			lines = append(lines, fields)
		}
	}
	return lines, scanner.Err()
}
