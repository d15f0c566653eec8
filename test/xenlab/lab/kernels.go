package lab

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Kernels are the names of the kernels that images have, from the table of KnownKernels.
type Kernels struct {
	Dom0, Guests string
}

// kernelsFile is the table in the images' sources, and what was built in the images.
const kernelsFile = "kernels"

// KnownKernels are the names that the table in source, the images' sources, has. The first
// is the default.
func KnownKernels(source string) ([]string, error) {
	lines, err := fieldsOf(filepath.Join(source, kernelsFile))
	if err != nil {
		return nil, fmt.Errorf("the table of kernels: %w", err)
	}
	var names []string
	for _, fields := range lines {
		names = append(names, fields[0])
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("%s: no kernel", filepath.Join(source, kernelsFile))
	}
	return names, nil
}

// Built is what images have.
type Built struct {
	Dom0, Guests string // versions, as uname has them
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
		case fields[0] == "dom0" && len(fields) == 3:
			b.Dom0 = fields[1]
			if _, err := fmt.Sscan(fields[2], &b.Dom0MemMiB); err != nil {
				return b, fmt.Errorf("%s: dom0's memory %q: %w", path, fields[2], err)
			}
		}
	}
	if b.Dom0 == "" || b.Guests == "" || b.Dom0MemMiB <= 0 {
		return b, fmt.Errorf("%s does not say dom0's kernel, its memory and the guests' kernel: build the images anew", path)
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
